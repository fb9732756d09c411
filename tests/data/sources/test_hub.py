import json

import datasets
import numpy as np
import pytest
from PIL import Image

from fedlab.data.sources.hub import HuggingFace
from fedlab.errors import BadInput


@pytest.fixture(autouse=True)
def quiet_and_private(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub-cache")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def features(**extra):
    return datasets.Features({"label": datasets.ClassLabel(names=["no", "yes"]), **extra})


@pytest.fixture
def saved(tmp_path):
    """Write splits with `save_to_disk`; return the folder."""

    def save(features=None, **splits):
        tables = {name: datasets.Dataset.from_dict(columns, features=features) for name, columns in splits.items()}
        folder = tmp_path / "saved"
        datasets.DatasetDict(tables).save_to_disk(folder)
        return str(folder)

    return save


def test_a_saved_text_dataset(saved):
    path = saved(
        features(text=datasets.Value("string"), user=datasets.Value("string")),
        train={"text": ["a", "b", "c"], "label": [0, 1, 1], "user": ["u", "v", "u"]},
        test={"text": ["d"], "label": [0], "user": ["w"]},
    )
    data = HuggingFace(path, text="text", group="user").load()
    assert (data.kind, data.classes, data.train.inputs, data.test.inputs) == (
        "text",
        ("no", "yes"),
        ["a", "b", "c"],
        ["d"],
    )
    assert data.train.labels.tolist() == [0, 1, 1]
    assert data.train.groups["user"].tolist() == ["u", "v", "u"]


def test_a_saved_table_without_a_test_split(saved):
    columns = {"x": list(range(10)), "z": [i / 2 for i in range(10)], "label": ["a", "b"] * 5}
    data = HuggingFace(saved(train=columns), test_split=None).load()
    assert (data.kind, data.classes, len(data.train), len(data.test)) == ("tabular", ("a", "b"), 8, 2)
    assert np.array_equal(data.train.inputs[:, 1] * 2, data.train.inputs[:, 0])
    assert np.array_equal(data.train.labels, data.train.inputs[:, 0] % 2)


def test_a_saved_image_dataset(saved):
    pictures = [Image.new(mode, (6, 4), 255) for mode in ("L", "RGB")]
    columns = {"image": pictures, "label": [0, 1]}
    path = saved(features(image=datasets.Image()), train=columns, test=columns)
    data = HuggingFace(path, size=8).load()
    assert (data.kind, data.train.inputs.shape) == ("image", (2, 8, 8, 3))
    assert (data.train.inputs[0] == 255).all()


def test_a_folder_of_plain_files(tmp_path):
    for split, words in (("train", "abc"), ("test", "d")):
        lines = [json.dumps({"text": word, "label": i}) for i, word in enumerate(words)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    data = HuggingFace(str(tmp_path)).load()
    assert (data.train.inputs, data.test.inputs, data.classes) == (["a", "b", "c"], ["d"], ("0", "1", "2"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "lable"}, "did you mean 'label'"),
        ({"text": "tex"}, "unknown column 'tex'"),
        ({"test_split": "validation"}, "unknown split 'validation': known are test, train"),
        ({}, r"columns a, b: which is the input is not clear; say text=COLUMN"),
        ({"columns": ["a"]}, "columns a of .* are not all numeric"),
    ],
)
def test_a_choice_that_does_not_fit_is_refused(saved, options, message):
    columns = {"a": ["x"], "b": ["y"], "label": [0]}
    with pytest.raises(BadInput, match=message):
        HuggingFace(saved(train=columns, test=columns), **options).load()


def test_choices_exclude_each_other_and_sources_are_hashable():
    with pytest.raises(BadInput, match="exclude each other"):
        HuggingFace("x", text="a", image="b")
    assert hash(HuggingFace("x", columns=["a"])) == hash(HuggingFace("x", columns=("a",)))


def test_offline_gives_one_message(monkeypatch):
    def unreachable(path, name):
        raise ConnectionError(f"Couldn't reach {path!r} on the Hub\nmore\nlines")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(BadInput, match=r"'ag_news' could not be loaded .*reach.*online") as refusal:
        HuggingFace("ag_news").load()
    assert "\n" not in str(refusal.value)

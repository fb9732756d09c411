import logging
import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from fedlab.data.dataset import Dataset, Split
from fedlab.errors import BadInput
from fedlab.features.backbone import Backbone
from fedlab.features.backbones import Identity, MiniLM
from fedlab.features.cache import extract_dataset

CALLS: list[int] = []


@dataclass(frozen=True)
class Counting(Backbone):
    """x -> (x, scale x), counting how often it is asked."""

    scale: float = 2.0
    kinds: ClassVar[frozenset[str]] = frozenset({"tabular"})

    def fingerprint(self):
        return f"counting {self.scale}"

    def _embed(self, inputs, kind, device, batch, progress):
        CALLS.append(len(inputs))
        if progress is not None:
            progress(len(inputs), len(inputs))
        return np.concatenate([inputs, np.float32(self.scale) * inputs], axis=1)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    CALLS.clear()
    monkeypatch.setenv("FEDLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


def dataset(seed=0):
    x = np.random.default_rng(seed).normal(size=(9, 3)).astype(np.float32)
    labels = np.arange(9) % 2
    return Dataset("tiny", "tabular", Split(x[:6], labels[:6]), Split(x[6:], labels[6:]), ("a", "b"))


def test_a_backbone_is_asked_once(cache):
    data = dataset()
    train, test = extract_dataset(data, Counting())
    assert train.shape == (6, 6) and test.shape == (3, 6) and CALLS == [6, 3]
    again = extract_dataset(data, Counting())
    assert CALLS == [6, 3]
    assert np.array_equal(again[0], train) and np.array_equal(again[1], test)
    assert len(list(cache.iterdir())) == 2  # no temporary file stays


def test_progress_counts_both_splits_cached_or_not():
    for _ in range(2):
        steps = []
        extract_dataset(dataset(), Counting(), progress=lambda *step, steps=steps: steps.append(step))
        assert steps == [(6, 9), (9, 9)]


def test_other_data_or_another_backbone_is_another_file(cache):
    extract_dataset(dataset(0), Counting(2.0))
    extract_dataset(dataset(0), Counting(3.0))
    extract_dataset(dataset(1), Counting(2.0))
    assert len(list(cache.iterdir())) == 6 and len(CALLS) == 6


@pytest.mark.parametrize("damage", ["torn", "empty", "flipped", "other"])
def test_a_damaged_file_is_made_anew(cache, damage):
    train, _ = extract_dataset(dataset(), Counting())
    for file in cache.iterdir():
        content = bytearray(file.read_bytes())
        if damage == "torn":
            content = content[: len(content) // 2]
        elif damage == "empty":
            content = bytearray()
        elif damage == "flipped":
            content[-1] ^= 1
        else:
            content = bytearray(b"not a safetensors file at all")
        file.write_bytes(content)
    again, _ = extract_dataset(dataset(), Counting())
    assert np.array_equal(again, train) and CALLS == [6, 3, 6, 3]
    extract_dataset(dataset(), Counting())
    assert CALLS == [6, 3, 6, 3]


def test_an_unwritable_cache_costs_the_cache_not_the_run(monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("a file cannot hold a folder")
    monkeypatch.setenv("FEDLAB_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING, logger="fedlab"):
        train, _ = extract_dataset(dataset(), Counting())
        extract_dataset(dataset(), Counting())
    assert train.shape == (6, 6) and CALLS == [6, 3, 6, 3]
    assert len(caplog.messages) == 1  # said once
    assert "set FEDLAB_CACHE" in caplog.messages[0]


def test_a_full_disk_leaves_no_half_file(monkeypatch, cache, caplog):
    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    train, _ = extract_dataset(dataset(), Counting())
    assert train.shape == (6, 6)
    assert list(cache.iterdir()) == []
    assert "No space left on device" in caplog.messages[0]


def test_identity_is_never_cached(cache):
    train, test = extract_dataset(dataset(), Identity())
    assert np.array_equal(train, dataset().train.inputs) and len(test) == 3
    assert not cache.exists()


def test_features_that_are_not_finite_name_the_split_and_the_row(cache):
    with pytest.raises(BadInput, match=r"'tiny', split train: 6 of 6 rows .* \(first row 0\)"):
        extract_dataset(dataset(), Counting(float("nan")))
    assert not cache.exists()


def test_a_kind_the_backbone_cannot_read_is_refused_before_any_work():
    with pytest.raises(BadInput, match="MiniLM reads text data, not tabular"):
        extract_dataset(dataset(), MiniLM())


def test_two_writers_at_once_leave_one_whole_file(tmp_path):
    program = (
        "import sys, pathlib, numpy as np\n"
        "from fedlab.features.cache import _write\n"
        "for i in range(30): _write(pathlib.Path(sys.argv[1]), np.full((500, 50), i, dtype=np.float32))\n"
    )
    path = tmp_path / "shared.safetensors"
    writers = [subprocess.Popen([sys.executable, "-c", program, str(path)]) for _ in range(2)]
    assert [writer.wait() for writer in writers] == [0, 0]
    from fedlab.features.cache import _read

    features = _read(path, 500)
    assert features is not None and (features == 29).all()
    assert [file.name for file in tmp_path.iterdir()] == ["shared.safetensors"]

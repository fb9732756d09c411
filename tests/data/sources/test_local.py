import io

import numpy as np
import pytest
from PIL import Image

from fedlab.data.sources.local import CSV, ImageFolder, Numpy
from fedlab.errors import BadInput

ROWS = "a,b,who,y\n" + "".join(f"{i},{i / 4},w{i % 3},{'cat' if i % 2 else 'dog'}\n" for i in range(10))


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def test_csv_with_natural_ids(write):
    data = CSV(write("t.csv", ROWS), "y", group="who").load()
    assert (data.kind, data.classes, len(data.train), len(data.test)) == ("tabular", ("cat", "dog"), 8, 2)
    assert data.train.inputs.dtype == np.float32
    assert np.array_equal(data.train.inputs[:, 1], data.train.inputs[:, 0] / 4)
    assert np.array_equal(data.train.labels, 1 - data.train.inputs[:, 0] % 2)
    assert data.train.groups["who"].tolist() == [f"w{int(a) % 3}" for a in data.train.inputs[:, 0]]
    assert sorted(data.test.labels.tolist()) == [0, 1]


def test_csv_with_a_test_file_chosen_columns_and_text(write):
    train, test = write("train.csv", ROWS), write("test.csv", "y,a,b,who\nfox,1,2,w1\n")
    data = CSV(train, "y", test=test, columns=["b"]).load()
    assert data.classes == ("cat", "dog", "fox")
    assert (len(data.train), data.test.inputs.tolist(), data.test.labels.tolist()) == (10, [[2.0]], [2])
    texts = CSV(train, "y", test=test, text="who").load()
    assert (texts.kind, texts.test.inputs) == ("text", ["w1"])


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (ROWS, {"label": "z"}, "unknown column 'z'"),
        (ROWS, {}, "columns 'who' are not numeric"),
        (ROWS, {"columns": ("a", "bb")}, "did you mean 'b'"),
        (ROWS, {"columns": ("a",), "test": 1.5}, r"test=1.5 must be a finite number in \(0, 1\)"),
        ("y\n1\n2\n", {}, "no feature column"),
        ("a,y\n1,0\n,1\n3,0\n,1\n", {"test": 0.25}, "features in . rows are NaN"),
        ("a,y\n1,0\n1e60,1\n3,0\n", {"test": 0.4}, "NaN or infinite.*inf"),
        ("a,y\n1,0\n2,\n", {}, "1 labels are missing, first in row 1"),
        ("a,y\n1,0.5\n2,1\n", {}, "0.5 is not a class"),
        ("", {}, "cannot be read as CSV"),
        ("a,y\n", {}, "holds no rows"),
        (b"\xff\xfe\x00\x01", {}, "cannot be read as CSV"),
        ("a,who,y\n1,x,0\n2,,1\n", {"group": "who"}, "group 'who': 1 ids are missing, first in row 1"),
    ],
)
def test_csv_that_cannot_be_used_is_refused(write, content, options, message):
    with pytest.raises(BadInput, match=message):
        CSV(**{"path": write("t.csv", content), "label": "y", **options}).load()


def archive(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def test_numpy_tables_images_and_texts(write):
    x, y = np.arange(20.0).reshape(10, 2), np.arange(10) % 2 + 5
    data = Numpy(write("a.npz", archive(x=x, y=y, group=np.arange(10) % 3))).load()
    assert (data.kind, data.classes, len(data.test)) == ("tabular", ("5", "6"), 2)
    assert data.train.groups["group"].tolist() == [int(v) // 2 % 3 for v in data.train.inputs[:, 0]]
    grey = np.arange(10 * 16, dtype=np.uint8).reshape(10, 4, 4)
    data = Numpy(write("b.npz", archive(x=grey, y=y, x_test=grey[:2], y_test=y[:2]))).load()
    assert (data.kind, data.train.inputs.shape, len(data.test)) == ("image", (10, 4, 4, 3), 2)
    assert np.array_equal(data.test.inputs[..., 2], grey[:2])
    data = Numpy(write("c.npz", archive(x=np.array(list("abcdefghij")), y=y))).load()
    assert (data.kind, len(data.train.inputs)) == ("text", 8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"nothing", "cannot be read"),
        (archive(x=np.zeros((3, 2))), "holds x, no 'y'"),
        (archive(x=np.zeros((3, 2)), y=np.zeros(3), x_test=np.zeros((1, 2))), "no 'y_test'"),
        (archive(x=np.zeros((3, 2)), y=np.zeros(2)), "3 inputs but 2 labels"),
        (archive(x=np.zeros((3, 2, 2)), y=np.zeros(3)), "known are"),
        (archive(x=np.array([{}, []], dtype=object), y=np.zeros(2)), "cannot be read"),
        (archive(x=np.zeros((3, 2)), y=np.array([0, 1, 2]), classes=np.array(["a", "b"])), r"outside \[0, 2\)"),
        (archive(x=np.full((3, 2), np.nan), y=np.zeros(3)), "NaN or infinite"),
    ],
)
def test_numpy_that_cannot_be_used_is_refused(write, content, message):
    with pytest.raises(BadInput, match=message):
        Numpy(write("a.npz", content)).load()


def picture(value, mode="RGB", size=(20, 10), form="PNG"):
    buffer = io.BytesIO()
    Image.new(mode, size, value).save(buffer, format=form)
    return buffer.getvalue()


def test_image_folder_of_any_mode_and_size(write, tmp_path):
    for i in range(4):
        write(f"set/red/{i}.png", picture((255, 0, 0)))
        write(f"set/clear/{i}.PNG", picture((0, 0, 0, 0), "RGBA", (5, 5)))
        write(f"set/grey/{i}.jpg", picture(100, "L", form="JPEG"))
    write("set/grey/notes.txt", "not an image")
    data = ImageFolder(str(tmp_path / "set"), size=8, test=0.25).load()
    assert (data.classes, len(data.train), len(data.test)) == (("clear", "grey", "red"), 9, 3)
    assert data.train.inputs.shape == (9, 8, 8, 3)
    colours = [data.train.inputs[data.train.labels == label] for label in range(3)]
    assert (colours[0] == 255).all()
    assert np.abs(colours[1].astype(int) - 100).max() <= 2
    assert (colours[2] == (255, 0, 0)).all()


def test_image_folder_with_its_own_split(write, tmp_path):
    write("set/train/a/1.png", picture((1, 1, 1)))
    write("set/train/b/1.png", picture((2, 2, 2)))
    write("set/test/b/1.png", picture((3, 3, 3)))
    data = ImageFolder(str(tmp_path / "set"), size=2).load()
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([0, 1], [1])


def test_images_that_cannot_be_used_are_refused(write, tmp_path):
    write("set/a/1.png", picture((1, 1, 1))[:40])
    with pytest.raises(BadInput, match=r"1\.png cannot be read as an image"):
        ImageFolder(str(tmp_path / "set")).load()
    with pytest.raises(BadInput, match="holds no CLASS/IMAGE"):
        ImageFolder(str(tmp_path / "set" / "a")).load()
    with pytest.raises(BadInput, match="size=0 must be a whole number in"):
        ImageFolder(str(tmp_path), size=0).load()
    for source in (ImageFolder("nowhere"), Numpy("nowhere.npz"), CSV("nowhere.csv", "y")):
        with pytest.raises(BadInput, match="does not exist"):
            source.load()

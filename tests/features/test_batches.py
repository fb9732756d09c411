import numpy as np
import pytest

from fedlab.errors import BadInput
from fedlab.extras import needs
from fedlab.features.batches import embed_in_batches


@pytest.mark.parametrize("batch_size", [1, 3, 4, 10, 99])
def test_rows_come_back_in_the_inputs_own_order(batch_size):
    order = np.random.default_rng(0).permutation(10)
    steps = []
    rows = embed_in_batches(
        order,
        lambda batch: np.stack([batch, batch**2], axis=1).astype(np.float32),
        batch_size=batch_size,
        progress=lambda *step: steps.append(step),
    )
    assert np.array_equal(rows, np.stack([np.arange(10), np.arange(10) ** 2], axis=1))
    assert steps[-1] == (10, 10)
    assert len(steps) == -(-10 // batch_size)


def test_a_batch_holds_at_least_one_input():
    with pytest.raises(BadInput, match="batch_size=0 must be a whole number >= 1"):
        embed_in_batches(np.arange(3), lambda b: b[:, None], batch_size=0)


def test_a_missing_package_names_the_extra_that_brings_it():
    with (
        pytest.raises(
            BadInput, match=r"MiniLM needs the package surely_absent.*pip install -c constraints\.txt -e '\.\[text\]'"
        ),
        needs("MiniLM", "text"),
    ):
        import surely_absent  # noqa: F401

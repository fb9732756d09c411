import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from fedlab.stats.arithmetic.simplex import nearest_distribution
from tests.draws import seeds


@given(n=st.integers(1, 8), c=st.integers(1, 12), seed=seeds)
def test_rows_are_distributions_in_the_order_of_the_scores(n, c, seed):
    scores = torch.randn(n, c, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    shares = nearest_distribution(scores)
    assert float(shares.min()) >= 0 and torch.allclose(shares.sum(1), torch.ones(n, dtype=torch.float64))
    ordered = shares.gather(1, scores.argsort(1))
    assert bool((ordered.diff(dim=1) >= 0).all())


@settings(max_examples=10)
@given(seed=seeds)
def test_no_distribution_is_nearer(seed):
    scores = np.random.default_rng(seed).normal(size=4)
    near = nearest_distribution(torch.from_numpy(scores)[None])[0].numpy()
    minimum = minimize(
        lambda p: ((p - scores) ** 2).sum(),
        np.full(4, 0.25),
        method="SLSQP",
        bounds=[(0, 1)] * 4,
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
    )
    assert ((near - scores) ** 2).sum() <= minimum.fun + 1e-9
    assert np.allclose(near, minimum.x, atol=1e-3)


def test_a_distribution_stays_and_minus_infinity_has_no_share():
    given_rows = torch.tensor([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0]], dtype=torch.float64)
    assert torch.allclose(nearest_distribution(given_rows), given_rows)
    lost = torch.tensor([[-torch.inf, 0.1, 0.3]], dtype=torch.float64)
    assert torch.allclose(nearest_distribution(lost), torch.tensor([[0.0, 0.4, 0.6]], dtype=torch.float64))

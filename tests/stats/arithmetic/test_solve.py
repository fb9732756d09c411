import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from fedlab.analytic import RandomReLU
from fedlab.errors import BadInput
from fedlab.stats import GramStats, one_hot, total_of
from fedlab.stats.arithmetic.solve import generalised_cross_validation, ridge_solve
from tests.draws import FIXED, gap, samples, statistics

EPS = np.finfo(np.float64).eps


def distance(a, b):
    """Largest difference, relative to the largest entry."""
    return float((a - b).abs().max() / b.abs().max())


def tolerance(gram, ridge):
    """What a head may differ by in float64: max(1e-10, 10 eps cond(G + gI))."""
    system = gram.to(torch.float64) + ridge * torch.eye(len(gram), dtype=torch.float64)
    condition = float(torch.linalg.cond(system))
    print(f"cond(G + gI) = {condition:.2e}")
    return max(1e-10, 10 * EPS * condition)


def minimum_norm(x, y):
    """Least squares of minimum norm by singular values of X itself, not of X'X."""
    return torch.linalg.lstsq(x, y, driver="gelsd", rcond=1e-12).solution


# -- the paper's law ---------------------------------------------------------------------------------------


def local_solution(x, y, ridge):
    """A client's W_k and C_k = X_k'X_k + g I."""
    c = x.T @ x + ridge * torch.eye(x.shape[1], dtype=torch.float64)
    return torch.linalg.inv(c) @ (x.T @ y), c


def pairwise_law(u, v):
    """W = A_u W_u + A_v W_v in its long form (AFL, theorem 1)."""
    (w_u, c_u), (w_v, c_v) = u, v
    r_u, r_v, s = torch.linalg.inv(c_u), torch.linalg.inv(c_v), torch.linalg.inv(c_u + c_v)
    eye = torch.eye(len(c_u), dtype=torch.float64)
    a_u = eye - r_u @ c_v + r_u @ c_v @ s @ c_v
    a_v = eye - r_v @ c_u + r_v @ c_u @ s @ c_u
    return a_u @ w_u + a_v @ w_v, c_u + c_v


def absolute_aggregation(clients, ridge):
    """The law by recursion over the clients; then the k ridges are removed again (AFL, theorem 2)."""
    merged = local_solution(*clients[0], ridge)
    for client in clients[1:]:
        merged = pairwise_law(merged, local_solution(*client, ridge))
    w, c = merged
    removed = c - len(clients) * ridge * torch.eye(len(c), dtype=torch.float64)
    return torch.linalg.inv(removed) @ c @ w


@pytest.mark.parametrize("k", [1, 2, 5, 20])
@pytest.mark.parametrize("ridge", [0.1, 1.0])
def test_the_absolute_aggregation_law_is_the_solve_of_sums(k, ridge):
    x, labels = samples(4000, 24, 4, seed=k)
    y = one_hot(labels, 4)
    clients = list(zip(x.split(4000 // k), y.split(4000 // k), strict=True))
    sums = total_of(GramStats.from_batch(*client) for client in clients)
    result = sums.solution(0.0)
    # Uniform features and 200 or more samples a client: every C_k has condition below 10, so that the
    # inverses and products of a merge lose tens of eps = 2e-16, and 20 merges still stay below 1e-12.
    assert result.condition < 10
    assert distance(absolute_aggregation(clients, ridge), result.weight) <= 1e-12


def test_the_law_with_fewer_samples_than_features_per_client():
    # G_k is singular and only the ridge makes C_k invertible: condition 1 + |G_k|/g, and 120 merges.
    x, labels = samples(960, 24, 4)
    clients = list(zip(x.split(8), one_hot(labels, 4).split(8), strict=True))
    sums = total_of(GramStats.from_batch(*client) for client in clients)
    assert distance(absolute_aggregation(clients, 1.0), sums.solve(0.0)) <= 1e-10


def test_dummy_data_table():
    """Sum |W_agg - W_joint| for each number of clients, k (AFL, dummy data).

    An eighth of the paper's width and a fifth of its samples; `experiment=afl_dummy` runs the full table.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 64, generator=generator, dtype=torch.float64)
    y = one_hot(torch.randint(10, (2000,), generator=generator), 10)
    joint = torch.linalg.lstsq(x, y, driver="gels").solution
    for k in (2, 10, 20, 50, 100, 200):
        parts = zip(x.tensor_split(k), y.tensor_split(k), strict=True)
        error = float((total_of(GramStats.from_batch(x, y) for x, y in parts).solve(0.0) - joint).abs().sum())
        print(f"k = {k}: {error:.1e}")
        assert error <= 1e-10


# -- least squares -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), [(200, 1), (200, 10), (200, 64), (1000, 64)])
def test_cholesky_agrees_with_least_squares(n, d, device):
    x, labels = samples(n, d, 4, device=device)
    y = one_hot(labels, 4)
    result = GramStats.from_batch(x, y).solution(0.0)
    assert result.rank == d and result.diagnostic is None
    assert distance(result.weight, minimum_norm(x.cpu(), y.cpu())) <= 1e-12


@pytest.mark.parametrize("ridge", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("fixed", [None, FIXED], ids=["float64", "exact"])
def test_a_ridge_is_in_feature_units_in_both_number_systems(ridge, fixed):
    x, labels = samples(80, 20, 4)
    y = one_hot(labels, 4)
    if fixed is not None:
        x = fixed.decode(fixed.encode(x)[0])
    # [X; sqrt(g) I] W = [Y; 0] in the least squares sense.
    tall = torch.cat([x, ridge**0.5 * torch.eye(20, dtype=torch.float64)])
    zeros = torch.zeros(20, 4, dtype=torch.float64)
    result = GramStats.from_batch(x, y, fixed).solution(ridge)
    assert result.ridge == ridge
    assert distance(result.weight, minimum_norm(tall, torch.cat([y, zeros]))) <= 1e-12


@pytest.mark.parametrize("n", [1, 5, 19])
@pytest.mark.parametrize("fixed", [None, FIXED], ids=["float64", "exact"])
def test_fewer_samples_than_features_give_the_minimum_norm(n, fixed):
    x, labels = samples(n, 20, 3)
    y = one_hot(labels, 3)
    if fixed is not None:
        x = fixed.decode(fixed.encode(x)[0])
    result = GramStats.from_batch(x, y, fixed).solution(0.0)
    assert result.rank == n and result.diagnostic is not None and f"rank {n} of 20" in result.diagnostic
    # cond(X'X) = cond(X)^2: at n = 19 of 20 the smallest eigenvalue is far below the largest.
    limit = max(1e-10, 10 * EPS * result.condition)
    assert distance(result.weight, minimum_norm(x, y)) <= limit
    assert distance(result.weight, torch.linalg.pinv(x) @ y) <= limit
    assert float((x @ result.weight - y).abs().max()) <= limit  # and it interpolates


def test_duplicate_and_dead_features_give_the_minimum_norm():
    x, labels = samples(50, 6)
    x = torch.cat([x, x[:, :2], torch.zeros(50, 2, dtype=torch.float64)], dim=1)
    y = one_hot(labels, 3)
    result = GramStats.from_batch(x, y).solution(0.0)
    assert result.rank == 6
    assert distance(result.weight, minimum_norm(x, y)) <= 1e-10
    assert float(result.weight[8:].abs().max()) <= 1e-12


@pytest.mark.parametrize("ridge", [1e-300, 1e-17, 1e-15])
def test_a_ridge_below_rounding_is_said_and_does_no_harm(ridge):
    x, labels = samples(5, 20)
    y = one_hot(labels, 3)
    result = GramStats.from_batch(x, y).solution(ridge)
    assert result.rank == 5 and result.diagnostic is not None and "larger ridge" in result.diagnostic
    assert distance(result.weight, minimum_norm(x, y)) <= 1e-12


def test_an_ill_conditioned_system_says_so():
    x, labels = samples(60, 8)
    x[:, 7] = x[:, 6] + 1e-6 * x[:, 7]
    result = GramStats.from_batch(x, one_hot(labels, 3)).solution(0.0)
    assert result.rank == 8 and result.condition > 1e12
    assert result.diagnostic is not None and "ill-conditioned" in result.diagnostic


def test_nothing_has_the_zero_head():
    for empty in (GramStats.zeros(4, 2), GramStats.zeros(4, 2, FIXED.scale)):
        assert empty.solution(0.0).rank == 0
        assert not empty.solve(0.0).any() and not empty.solve(1.0).any()
    y = one_hot(torch.zeros(3, dtype=torch.int64), 1)
    assert not GramStats.from_batch(torch.zeros(3, 1), y).solve(0.0).any()


def test_one_feature_and_one_class():
    x = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    result = GramStats.from_batch(x, one_hot(torch.tensor([0, 0]), 1))
    assert result.solve(0.0).item() == pytest.approx(3 / 5)
    assert result.solve(5.0).item() == pytest.approx(3 / 10)
    assert result.solution("gcv").weight.shape == (1, 1)


# -- the tolerance of a head -------------------------------------------------------------------------------


def test_heads_agree_to_the_stated_tolerance():
    digits = load_digits()
    x = RandomReLU(width=64)(torch.from_numpy(digits.data / 16))
    y = one_hot(torch.from_numpy(digits.target), 10)
    joint = GramStats.from_batch(x, y)
    for k in (2, 30, 300):
        parts = zip(x.tensor_split(k), y.tensor_split(k), strict=True)
        total = total_of(GramStats.from_batch(x, y) for x, y in parts)
        assert gap(total, joint) <= 1e-12
        for ridge in (1e-6, 1e-2, 1.0):
            limit = tolerance(joint.gram, ridge)
            error = distance(total.solve(ridge), joint.solve(ridge))
            print(f"ridge {ridge:g}, k = {k}: {error:.1e} of {limit:.1e}")
            assert error <= limit


def test_the_condition_is_an_estimate_of_the_true_one():
    result = statistics(100, 30, seed=3)
    true = float(torch.linalg.cond(result.gram + 0.1 * torch.eye(30, dtype=torch.float64), p=1))
    assert true / 10 <= result.solution(0.1).condition <= true * 1.01


def test_survivors_of_a_dropout_are_centralised_on_the_survivors():
    x, labels = samples(300, 16, 4)
    y = one_hot(labels, 4)
    parts = list(torch.arange(300).tensor_split(30))
    survivors = torch.cat(parts[::3])
    for fixed in (None, FIXED):
        total = total_of(GramStats.from_batch(x[rows], y[rows], fixed) for rows in parts[::3])
        joint = GramStats.from_batch(x[survivors], y[survivors], fixed)
        if fixed is not None:
            assert torch.equal(total.solve(1.0), joint.solve(1.0))
        assert distance(total.solve(1.0), joint.solve(1.0)) <= 1e-12


@pytest.mark.parametrize("ridge", [0.0, 1.0, "gcv"])
@pytest.mark.parametrize("n", [20, 400])
def test_the_bits_of_a_head_do_not_depend_on_the_number_of_threads(ridge, n):
    result = statistics(n, 64, 10, fixed=FIXED)
    before = torch.get_num_threads()
    heads = set()
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            heads.add(result.solve(ridge).numpy().tobytes())
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert len(heads) == 1


# -- generalised cross-validation --------------------------------------------------------------------------


def gcv_score(x, y, ridge):
    """n |Y - H Y|^2 / (n - tr H)^2 from the hat matrix itself, up to the constant n."""
    n, d = x.shape
    hat = x @ torch.linalg.solve(x.T @ x + ridge * torch.eye(d, dtype=torch.float64), x.T)
    return float((y - hat @ y).square().sum() / (n - hat.trace()) ** 2)


@pytest.mark.parametrize(("n", "d"), [(200, 10), (60, 30), (40, 40), (20, 40), (3, 40), (30, 1)])
@pytest.mark.parametrize("noise", [0.1, 3.0])
def test_gcv_finds_the_minimum_of_the_explicit_score(n, d, noise):
    generator = torch.Generator().manual_seed(n + d)
    x, _ = samples(n, d, seed=n)
    labels = (x[:, :2] @ torch.ones(min(2, d), 1, dtype=torch.float64)).squeeze(1)
    labels = labels + noise * torch.randn(n, generator=generator, dtype=torch.float64)
    y = one_hot((labels > 0).long(), 2)
    result = generalised_cross_validation(x.T @ x, x.T @ y, n, float(n))
    mean = float((x.T @ x).diagonal().mean())
    grid = [float(g) * mean for g in torch.logspace(-9, 3, 49, dtype=torch.float64)]
    # Smaller ridges interpolate at n <= d, where the explicit score is 0/0.
    best = min(gcv_score(x, y, g) for g in grid if g > (1e-4 if n <= d else 0) * mean)
    assert gcv_score(x, y, result) <= best * 1.01


def test_gcv_is_leave_one_out_where_every_sample_has_the_same_leverage():
    # Orthogonal columns of +-1 (a Hadamard matrix): H_ii = tr H / n, so that GCV is exact leave-one-out.
    h = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(5):
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    x, y = h[:, :8], one_hot(torch.randint(3, (32,), generator=torch.Generator().manual_seed(1)), 3)
    for ridge in (0.5, 5.0, 50.0):
        error = 0.0
        for i in range(32):
            rest = torch.arange(32) != i
            left = GramStats.from_batch(x[rest], y[rest]).solve(ridge)
            error += float((y[i] - x[i] @ left).square().sum())
        assert gcv_score(x, y, ridge) * 32 == pytest.approx(error / 32, rel=1e-10)


@pytest.mark.parametrize("fixed", [None, FIXED], ids=["float64", "exact"])
def test_gcv_is_the_ridge_that_is_used_and_said(fixed):
    result = statistics(100, 20, 4, fixed=fixed)
    solution = result.solution("gcv")
    assert solution.ridge > 0
    assert distance(result.solve(solution.ridge), solution.weight) <= 1e-12


def test_gcv_agrees_between_the_number_systems():
    x, labels = samples(100, 20, 4)
    x = FIXED.decode(FIXED.encode(x)[0])
    y = one_hot(labels, 4)
    ridges = [GramStats.from_batch(x, y, fixed).solution("gcv").ridge for fixed in (None, FIXED)]
    assert ridges[0] == pytest.approx(ridges[1], rel=1e-9)


def test_gcv_without_signal():
    y = one_hot(torch.zeros(5, dtype=torch.int64), 2)
    silent = GramStats.from_batch(torch.zeros(5, 4), y).solution("gcv")
    assert silent.ridge > 0 and not silent.weight.any()
    with pytest.raises(BadInput, match="'gcv' needs samples"):
        GramStats.zeros(4, 2).solve("gcv")


# -- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ridge", [-1.0, float("nan"), float("inf"), "auto"])
def test_a_ridge_that_cannot_be_used_is_named_as_it_was_given(ridge):
    for fixed in (None, FIXED):
        with pytest.raises(BadInput, match=rf"ridge={ridge!r}"):
            statistics(5, 4, fixed=fixed).solve(ridge)
    if not isinstance(ridge, str):
        with pytest.raises(BadInput, match="must be a finite number"):
            ridge_solve(torch.eye(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64), ridge)


@pytest.mark.parametrize("ridge", [0.0, 1.0, "gcv"])
def test_sums_that_overflow_are_refused(ridge):
    x = torch.full((3, 2), 1e200, dtype=torch.float64)
    huge = GramStats.from_batch(x, one_hot(torch.zeros(3, dtype=torch.int64), 2))
    with pytest.raises(BadInput, match="overflow float64: scale the features"):
        huge.solve(ridge)

import pytest
import torch
from hypothesis import given, settings

from clients.acil import ACIL
from clients.gacl import GACL
from clients.gkeal import GKEAL
from fedlab.analytic import Identity, RandomRBF, RandomReLU, SampledRBF
from fedlab.errors import BadInput
from fedlab.stats import one_hot, total_of
from tests.draws import same, samples, seeds
from tests.tolerance import FLOAT64, assert_near

MODES = pytest.mark.parametrize("mode", ["float64", "exact"])
D0, D, C, N, RIDGE = 8, 32, 50, 1000, 0.1


def recursion(features, phases, c, ridge):
    """The papers' update: an inverse carried from phase to phase, new zero columns for new classes."""
    weight = torch.zeros(features(phases[0][0]).shape[1], 0, dtype=torch.float64)
    inverse, known = torch.eye(len(weight), dtype=torch.float64) / ridge, []
    for x, labels in phases:
        h = features(x)
        new = [y for y in sorted(set(labels.tolist())) if y not in known]
        known += new
        weight = torch.cat([weight, torch.zeros(len(weight), len(new), dtype=torch.float64)], 1)
        gain = torch.linalg.solve(torch.eye(len(h), dtype=torch.float64) + h @ inverse @ h.T, h @ inverse)
        inverse = inverse - inverse @ h.T @ gain
        weight = weight + inverse @ h.T @ (one_hot(labels, c)[:, known] - h @ weight)
    whole = torch.zeros(len(weight), c, dtype=torch.float64)
    whole[:, known] = weight
    return whole


def in_phases(count):
    """By classes as far as there are classes, by samples beyond."""
    x, labels = samples(N, D0, C, seed=7)
    if count <= C:
        groups = torch.arange(C).tensor_split(count)
        return [(x[rows], labels[rows]) for rows in (torch.isin(labels, g) for g in groups)]
    return list(zip(x.tensor_split(count), labels.tensor_split(count), strict=True))


@MODES
@pytest.mark.parametrize("count", [1, 5, 50, 500])
def test_any_number_of_phases_gives_the_joint_head(mode, count):
    model, (x, labels) = ACIL(C, RandomReLU(D), mode), samples(N, D0, C, seed=7)
    phases = in_phases(count)
    assert len(phases) == count and sum(len(part) for part, _ in phases) == N
    total = total_of(model.observe(*phase) for phase in phases)
    joint = model.observe(x, labels)
    h = model.features(x)
    ridge = h.T @ h + RIDGE * torch.eye(D, dtype=torch.float64)
    limit = max(1e-10, 10 * 2.2e-16 * float(torch.linalg.cond(ridge)))
    direct = torch.linalg.solve(ridge, h.T @ one_hot(labels, C))
    head = model.fit(total)
    assert float((head - direct).abs().max()) <= limit
    assert float((recursion(model.features, phases, C, RIDGE) - head).abs().max()) <= limit
    if mode == "exact":
        assert total.sha256 == joint.sha256 and torch.equal(head, model.fit(joint))
    assert float((head - model.fit(joint)).abs().max()) <= limit


@MODES
def test_returning_classes_are_the_same_sum(mode):
    # GACL: every class is in every phase.
    x, labels = samples(60, D0, 3)
    model = GACL(3, RandomReLU(D), mode)
    phases = list(zip(x.split(7), labels.split(7), strict=True))
    total = total_of(model.observe(*phase) for phase in phases)
    assert torch.allclose(model.fit(total), recursion(model.features, phases, 3, RIDGE), rtol=0, atol=1e-10)
    assert torch.equal(model.fit(total), ACIL(3, RandomReLU(D), mode).fit(total))


@MODES
def test_a_kernel_of_sampled_centres_is_one_at_its_samples(mode):
    x, labels = samples(30, 4)
    expansion = SampledRBF.of(x, width=10, sigma=1.5)
    assert expansion == SampledRBF.of(x.clone(), width=10, sigma=1.5) and hash(expansion) == hash(expansion)
    model = GKEAL(3, expansion, mode)
    h = model.features(x)
    assert h.shape == (30, 10) and int((h > 0.999).any(1).sum()) == 10
    head = model.fit(model.observe(x, labels))
    direct = torch.linalg.solve(h.T @ h + RIDGE * torch.eye(10, dtype=torch.float64), h.T @ one_hot(labels, 3))
    assert torch.allclose(head, direct, rtol=0, atol=1e-10)
    assert SampledRBF.of(x, width=100).width == 30
    with pytest.raises(BadInput, match="centres of shape"):
        expansion(samples(3, 5)[0])


def test_defaults_are_the_papers():
    assert isinstance(ACIL(2).expansion, RandomReLU) and isinstance(GACL(2).expansion, RandomReLU)
    assert isinstance(GKEAL(2).expansion, RandomRBF) and GKEAL(2).expansion.sigma == 10.0


@settings(max_examples=15)
@given(seed=seeds)
def test_adding_and_deleting_a_client_leaves_the_very_bits(seed):
    model = ACIL(3, RandomReLU(16))
    mine, others = model.observe(*samples(20, D0, 3, seed)), model.observe(*samples(30, D0, 3, seed + 1))
    left = others + mine - mine
    assert same(left, others) and torch.equal(model.fit(left), model.fit(others))


@MODES
def test_a_head_is_saved_and_loaded(mode, tmp_path):
    x, labels = samples(30, D0, 3)
    model = ACIL(3, RandomReLU(16), mode)
    head = model.fit(model.observe(x, labels))
    model.save(tmp_path / "head.safetensors", head)
    again = ACIL(3, RandomReLU(16), mode).load(tmp_path / "head.safetensors")
    assert torch.equal(again, head)
    assert_near(model.predict_scores(again, x), model.features(x) @ head, 16, FLOAT64)
    for other in (ACIL(3, RandomReLU(17), mode), ACIL(3, RandomReLU(16, seed=1), mode), GACL(3)):
        with pytest.raises(BadInput, match="use the same settings"):
            other.load(tmp_path / "head.safetensors")
    (tmp_path / "torn").write_bytes(b"torn")
    for name in ("torn", "absent"):
        with pytest.raises(BadInput, match="cannot be read as a head"):
            model.load(tmp_path / name)


@pytest.mark.parametrize("mode", ["float64", "exact"])
def test_a_width_beyond_memory_is_refused_before_it_is_taken(mode):
    with pytest.raises(BadInput, match=r"sums of 1000000000 features would take .*: lower the expansion's"):
        ACIL(3, RandomReLU(width=10**9), mode).observe(*samples(4, D0))
    # A client with few samples may take part where only the server can hold the matrix.
    model = ACIL(3, RandomReLU(width=200_000), mode)
    statistics = model.observe(*samples(4, D0))
    with pytest.raises(BadInput, match=r"solving for 200000 features would take .* GiB of"):
        model.fit(statistics)
    assert ACIL(3, Identity(), mode).observe(*samples(4, D0)).count == 4

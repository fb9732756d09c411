from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.dsal import DSAL
from fedlab.analytic import DualReLUTanh, DualStream
from fedlab.analytic.dual_stream import squared_error
from fedlab.errors import BadInput
from fedlab.stats import GramStats, one_hot, total_of
from tests.draws import FIXED, same, samples, seeds

MODES = pytest.mark.parametrize("mode", ["float64", "exact"])
W, D0, C = 16, 6, 6
PHASES = [(0, 1, 2), (3,), (1, 4), (5, 0)]
"""Classes per phase; 1 and 0 return."""
few = settings(max_examples=15)


def learner(mode="float64", **settings):
    return DSAL(C, DualReLUTanh(W, seed=3), mode, **settings)


def stream(seed=0, n=40):
    """(x, labels) of each phase."""
    result = []
    for t, classes in enumerate(PHASES):
        x, which = samples(n, D0, len(classes), seed + t)
        result.append((x, torch.tensor(classes)[which]))
    return result


def two_passes(model, phases, ridge, compensation_ridge):
    """The definition: both streams as recursive least squares, the second on the residue of the first."""

    def update(state, x, y):
        weight, inverse = state
        eye = torch.eye(len(x), dtype=torch.float64)
        inverse = inverse - inverse @ x.T @ torch.linalg.solve(eye + x @ inverse @ x.T, x @ inverse)
        return weight + inverse @ x.T @ (y - x @ weight), inverse

    def start(g):
        return torch.zeros(W, 0, dtype=torch.float64), torch.eye(W, dtype=torch.float64) / g

    main, compensation, known, heads = start(ridge), start(compensation_ridge), [], []
    for x, labels in phases:
        h = model.features(x)
        h_main, h_compensation = h[:, :W], h[:, W:]
        new = [c for c in sorted(set(labels.tolist())) if c not in known]
        known += new
        pad = torch.zeros(W, len(new), dtype=torch.float64)
        main = torch.cat([main[0], pad], 1), main[1]
        compensation = torch.cat([compensation[0], pad], 1), compensation[1]
        y = one_hot(labels, C)[:, known]  # old columns first, then the new ones
        main = update(main, h_main, y)
        residue = y - h_main @ main[0]
        residue[:, : len(known) - len(new)] = 0
        # Only the residue of this phase is learnt: the old heads' columns see zero targets.
        compensation = update(compensation, h_compensation, residue)
        head = torch.zeros(2, W, C, dtype=torch.float64)
        head[0][:, known], head[1][:, known] = main[0], compensation[0]
        heads.append(head)
    return heads


@MODES
@few
@given(seed=seeds)
def test_one_pass_is_the_two_pass_definition_after_every_phase(mode, seed):
    model, phases = learner(mode), stream(seed)
    state = DualStream(ratio=1.0, ridge=0.3, compensation_ridge=0.2)
    for (x, labels), head in zip(phases, two_passes(model, phases, 0.3, 0.2), strict=True):
        state = state.add(model.observe(x, labels))
        assert float((state.solution().weight - head.reshape(2 * W, C)).abs().max()) <= 1e-10


def test_the_ratio_scales_the_compensation_and_zero_is_the_main_head_alone():
    model, phases = learner(), stream()
    once, half, none = (model_fit(learner(ratio=r), phases) for r in (1.0, 0.5, 0.0))
    assert torch.equal(once[:W], none[:W]) and torch.equal(half[W:], once[W:] / 2) and not none[W:].any()
    union = total_of(model.observe(*phase) for phase in phases)
    main = replace(union, cross=union.cross[:W], rows=None, matrix=union.gram[:W, :W].contiguous())
    assert torch.allclose(once[:W], main.solve(0.1), rtol=0, atol=1e-12)


def model_fit(model, phases):
    return model.fit([model.observe(*phase) for phase in phases])


@pytest.mark.slow
@MODES
@few
@given(seed=seeds, batch=st.integers(1, 40), clients=st.integers(1, 8))
def test_neither_batches_nor_clients_nor_order_within_a_phase_matter(mode, seed, batch, clients):
    model, phases = learner(mode), stream(seed)
    generator = torch.Generator().manual_seed(seed)
    cut, dealt = [], []
    for x, labels in phases:
        cut.append(total_of(map(model.observe, x.split(batch), labels.split(batch))))
        parts = torch.randperm(len(x), generator=generator).tensor_split(clients)
        dealt.append(total_of(model.observe(x[rows], labels[rows]) for rows in parts))
    whole = model_fit(model, phases)
    for result in (model.fit(cut), model.fit(dealt)):
        if mode == "exact":
            assert torch.equal(result, whole)
        assert float((result - whole).abs().max()) <= 1e-10


def test_the_main_head_does_not_depend_on_the_order_of_phases_and_the_compensation_does():
    model, phases = learner("exact"), stream()
    there, back = model_fit(model, phases), model_fit(model, phases[::-1])
    assert torch.equal(there[:W], back[:W])
    assert float((there[W:] - back[W:]).abs().max()) > 1e-3


def test_a_returning_class_is_not_new_and_a_phase_without_samples_changes_nothing():
    model, phases = learner(), stream()
    state = DualStream()
    for phase in phases[:2]:
        state = state.add(model.observe(*phase))
    assert state.add(model.observe(*samples(0, D0))) is state
    x, labels = phases[0]
    before = state.compensation
    state = state.add(model.observe(x, labels))
    assert torch.equal(state.compensation, before)
    assert state.seen == (True,) * 4 + (False,) * 2 and state.num_phases == 3


@MODES
def test_forgetting_is_retraining_where_phases_are_kept_and_refused_where_not(mode):
    model, phases = learner(mode), stream()
    observed = [model.observe(*phase) for phase in phases]
    (x, labels) = phases[0]
    gone, rest = model.observe(x[:10], labels[:10]), model.observe(x[10:], labels[10:])
    kept, fresh, forgetful = DualStream(keep_phases=True), DualStream(), DualStream()
    for t, phase in enumerate(observed):
        kept, forgetful = kept.add(phase), forgetful.add(phase)
        fresh = fresh.add(rest if t == 0 else phase)
    after = kept.forget(0, gone)
    assert len(after.phases) == 4
    if mode == "exact":
        assert same(after.total, fresh.total)
        assert torch.equal(after.solution().weight, fresh.solution().weight)
    assert torch.allclose(after.solution().weight, fresh.solution().weight, rtol=0, atol=1e-10)
    digest = kept.total.sha256
    with pytest.raises(BadInput, match="keep_phases=True"):
        forgetful.forget(0, gone)
    with pytest.raises(BadInput, match="phase 4 lies outside"):
        kept.forget(4, gone)
    with pytest.raises(BadInput, match="cannot remove"):
        kept.forget(1, gone)
    assert kept.total.sha256 == digest


@MODES
def test_held_out_statistics_tell_the_error_and_the_best_ratio(mode):
    model, phases = learner(mode), stream()
    state = DualStream(keep_phases=True)
    for phase in phases:
        state = state.add(model.observe(*phase))
    x, labels = stream(seed=50)[0]
    held_out = model.observe(x, labels)
    weight = state.solution().weight
    direct = float((one_hot(labels, C) - model.features(x) @ weight).square().sum())
    assert abs(squared_error(held_out, weight) - direct) <= 1e-9 * direct
    best = state.search(held_out, [0.0, 0.5, 1.0, 2.0], [0.1, 1.0, 10.0], [0.1, 1.0])
    assert isinstance(best, DualStream) and best.num_phases == 4
    errors = []
    for ratio in (0.0, 0.5, 1.0, 2.0):
        for compensation_ridge in (0.1, 1.0, 10.0):
            for ridge in (0.1, 1.0):
                trained = DualStream(ratio, ridge, compensation_ridge)
                for phase in phases:
                    trained = trained.add(model.observe(*phase))
                errors.append(squared_error(held_out, trained.solution().weight))
    assert abs(squared_error(held_out, best.solution().weight) - min(errors)) <= 1e-10
    with pytest.raises(BadInput, match="keep_phases=True"):
        replace(state, keep_phases=False, phases=()).search(held_out, [1.0], ridges=[7.0])
    with pytest.raises(BadInput, match="held-out samples"):
        state.search(model.observe(*samples(0, D0)), [1.0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": -0.1}, r"ratio=-0\.1"),
        ({"ratio": float("nan")}, "ratio=nan"),
        ({"compensation_ridge": -1.0}, r"compensation_ridge=-1\.0"),
    ],
)
def test_a_ratio_or_ridge_out_of_range_is_refused(settings, message):
    with pytest.raises(BadInput, match=message):
        learner(**settings)


def test_cross_validation_of_two_ridges_is_refused():
    model = learner()
    with pytest.raises(BadInput, match="ridge='gcv': two streams have a ridge each"):
        model.fit(model.observe(*stream()[0]), "gcv")


def test_statistics_that_are_no_two_streams_are_refused_and_the_state_stays():
    state = DualStream().add(learner().observe(*stream()[0]))
    digest = state.total.sha256
    odd = GramStats.zeros(2 * W + 1, C)
    for wrong, message in ((odd, "two streams"), (GramStats.zeros(2 * W + 2, C), "cannot combine")):
        with pytest.raises(BadInput, match=message):
            state.add(wrong)
    with pytest.raises(BadInput, match="cannot combine"):
        state.add(GramStats.zeros(2 * W, C, FIXED.scale))
    with pytest.raises(BadInput, match="no phase"):
        DualStream().solution()
    assert state.total.sha256 == digest

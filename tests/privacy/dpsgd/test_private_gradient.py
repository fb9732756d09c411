import math
import os
from itertools import chain, pairwise

import dp_accounting
import numpy as np
import pytest
import torch
from dp_accounting.pld import PLDAccountant
from scipy.stats import chi2
from torch import nn
from torch.nn.functional import cross_entropy

from fedlab.errors import BadInput
from fedlab.gradient import CNN, Hidden, Linear
from fedlab.gradient.modules import model_of, module_of
from fedlab.privacy.accounting.calibration import calibrate, certify
from fedlab.privacy.accounting.composition import Composition
from fedlab.privacy.dpsgd.private_gradient import DPSGD, Rows, generator_of
from fedlab.privacy.mechanisms.gaussian import multiplier
from tests.tolerance import FLOAT64, assert_near

NETWORKS = [
    pytest.param(Linear(), 5, id="linear"),
    pytest.param(Hidden(7), 5, id="hidden"),
    pytest.param(CNN((6, 7, 2), (3, 4), 5), 84, id="cnn"),
]
CLIPPING = pytest.mark.parametrize("clipping", ["ghost", "hooks"])


def losses(module, batch):
    x, labels = batch
    return cross_entropy(module(x), labels, reduction="none")


def drawn(network, d, seed=0):
    """A model with no zero in it, small enough for losses of common size."""
    rng = np.random.default_rng(seed)
    start = network.initial(d, 3, seed)
    return {n: torch.tensor(rng.normal(size=a.shape).astype("f4")) / 2 for n, a in start.items()}


def exactly(network, start):
    """A network's module in float64: what is compared is the algebra, not the rounding of one processor."""
    return module_of(network, start).double()


def samples(n, d, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator).to(dtype)
    return Rows(x, torch.randint(3, (n,), generator=generator))


def moved(module, data, rule, seed=0, loss=losses, **how):
    """The sum that the steps of learning rate 1 subtracted, by parameter."""
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    chosen = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(chosen, lr=1.0)
    taken = rule.train(module, data, loss, optimizer, torch.Generator().manual_seed(seed), **how)
    assert taken.steps == rule.steps
    return {n: before[n] - p.detach() for n, p in module.named_parameters()}


def by_hand(module, data, clip=None, loss=losses):
    """The sum of clipped gradients, one sample after the other through plain autograd, and the median norm."""
    named = {n: p for n, p in module.named_parameters() if p.requires_grad}
    gradients = [torch.autograd.grad(loss(module, data[[row]]).sum(), list(named.values())) for row in range(len(data))]
    norms = [math.sqrt(sum(float(g.double().square().sum()) for g in gradient)) for gradient in gradients]
    clip = float(np.median(norms)) if clip is None else clip
    total = {n: torch.zeros_like(p) for n, p in named.items()}
    for gradient, norm in zip(gradients, norms, strict=True):
        for name, g in zip(named, gradient, strict=True):
            total[name] += g * min(1.0, clip / (norm + 1e-6))  # as Opacus has it: never above the clip
    return total, clip


def close(found, expected):
    """What moved is what should: a model is 1e3 roundings of float64 away at most, and both are subtracted from it."""
    assert all(array.dtype == torch.float64 for array in expected.values())
    assert_near({name: found[name] for name in expected}, expected, 1000, FLOAT64)


# -- gradients --------------------------------------------------------------------------------------------------------


@CLIPPING
@pytest.mark.parametrize(("network", "d"), NETWORKS)
def test_the_step_is_the_sum_of_gradients_clipped_one_by_one(network, d, clipping):
    start, data = drawn(network, d), samples(11, d, dtype=torch.float64)
    expected, clip = by_hand(exactly(network, start), data)  # half of them are clipped
    for physical in (1, 4, 256):
        rule = DPSGD(clip, 0.0, 1.0, 1, 1.0, physical, clipping)
        close(moved(exactly(network, start), data, rule), expected)
    single = moved(module_of(network, start), samples(1, d), rule)  # in float32, as it is used
    assert math.sqrt(sum(float(array.square().sum()) for array in single.values())) <= clip * (1 + 1e-5)


@pytest.mark.parametrize(("network", "d"), NETWORKS)
def test_a_network_and_its_module_are_one(network, d):
    start = drawn(network, d)
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    module = module_of(network, start)
    assert torch.equal(torch.rand(1), expected)  # making one draws nothing
    x, _ = samples(5, d)[list(range(5))]
    assert_near(module(x).detach(), network.logits(start, x), d)
    back = model_of(module)
    assert list(back) == list(start) and all(torch.equal(back[n], start[n]) for n in start)


class Text(nn.Module):
    """A language model in small: tied or own head, positions that see the batch or do not."""

    def __init__(self, tied=False, positions=None):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
        if tied:
            self.head.weight = self.words.weight
        self.place, self.positions = nn.Embedding(6, 4), positions
        self.place.requires_grad_(positions is not None)

    def forward(self, tokens):
        n, t = tokens.shape
        ids = torch.arange(t)
        place = self.place(ids.repeat(n, 1) if self.positions == "each" else ids)
        return self.head((self.words(tokens) + place).tanh())


def next_word(module, tokens):
    """The mean over a sequence's own tokens; 0 is padding."""
    logits, targets = module(tokens[:, :-1].contiguous()), tokens[:, 1:]
    each = cross_entropy(logits.mT, targets, reduction="none") * (targets != 0)
    return each.sum(1) / (targets != 0).sum(1).clamp(min=1)


class Sequences:
    def __init__(self):
        tokens = torch.randint(1, 9, (8, 5), generator=torch.Generator().manual_seed(0))
        tokens[3, 2:] = 0
        tokens[5, 3:] = 0
        self.tokens = tokens

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, rows):
        return self.tokens[rows]


@pytest.mark.parametrize(
    ("clipping", "tied"), [("ghost", False), ("hooks", False), ("hooks", True)], ids=["ghost", "hooks", "tied"]
)
def test_sequences_are_clipped_one_by_one_too(clipping, tied):
    module = Text(tied, "each").double()
    expected, clip = by_hand(module, Sequences(), loss=next_word)
    rule = DPSGD(clip, 0.0, 1.0, 1, 1.0, 3, clipping)
    close(moved(module, Sequences(), rule, loss=next_word), expected)


def test_any_data_set_can_be_collated():
    items = [{"text": [1, 2, 3]}, {"text": [4, 5, 6]}]

    class Collated(list):
        def __getitem__(self, rows):
            return torch.tensor([item["text"] for item in map(super().__getitem__, rows)])

    data = Collated(items)
    module = Text(positions="each").double()
    expected, clip = by_hand(module, data, loss=next_word)
    close(moved(module, data, DPSGD(clip, 0.0, 1.0, 1, 1.0), loss=next_word), expected)


@CLIPPING
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e300])
def test_a_gradient_that_is_not_finite_contributes_nothing(clipping, bad):
    start = drawn(Hidden(7), 5)
    x, labels = samples(6, 5, dtype=torch.float64)[list(range(6))]
    x[2] = bad
    whole = [0, 1, 3, 4, 5]
    expected, _ = by_hand(exactly(Hidden(7), start), Rows(x[whole], labels[whole]), 0.5)
    rule = DPSGD(0.5, 0.0, 1.0, 1, 1.0, 4, clipping)
    close(moved(exactly(Hidden(7), start), Rows(x, labels), rule), expected)
    alone = moved(exactly(Hidden(7), start), Rows(x[[2]], labels[[2]]), rule)
    assert not any(array.any() for array in alone.values())


# -- noise and batches ------------------------------------------------------------------------------------------------


@CLIPPING
@pytest.mark.parametrize("n", [0, 3])
@pytest.mark.parametrize("secure", [False, True])
def test_the_noise_has_the_deviation_it_is_accounted_with(clipping, n, secure):
    start = {"weight": torch.zeros(3, 2000), "bias": torch.zeros(3)}
    m, clip, batch, steps = 1.7, 0.5, 4.0, 3
    quiet = DPSGD(clip, 0.0, 1.0, steps, batch, clipping=clipping)
    loud = DPSGD(clip, m, 1.0, steps, batch, clipping=clipping)
    data = samples(n, 2000)
    # At rate 1e-6 the model stays where the gradients are the same with noise and without.
    ways = []
    for rule in (quiet, loud):
        module = module_of(Linear(), start)
        optimizer = torch.optim.SGD(module.parameters(), lr=1e-6)
        rule.train(module, data, losses, optimizer, torch.Generator().manual_seed(5), secure=secure)
        ways.append(torch.cat([p.detach().flatten() for p in module.parameters()]).double() / 1e-6)
    noise = (ways[1] - ways[0]).numpy()
    deviation = m * clip / batch * math.sqrt(steps)
    statistic, freedom = float((noise**2).sum() / deviation**2), noise.size
    low, high = chi2.ppf([1e-6, 1 - 1e-6], freedom)
    assert low < statistic < high
    assert not low < statistic / 4 < high  # half of the noise would be found
    assert not low < statistic * 1.25 < high


def test_batches_are_poisson_samples_in_physical_pieces():
    n, q, steps, physical = 40, 0.3, 150, 5
    seen, ends = [], []

    class Spied(Rows):
        def __getitem__(self, rows):
            seen.append(list(rows))
            return super().__getitem__(rows)

    x, labels = samples(n, 5)[list(range(n))]
    module = module_of(Linear(), drawn(Linear(), 5))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.0)
    optimizer.register_step_post_hook(lambda *_: ends.append(len(seen)))
    rule = DPSGD(1.0, 1.0, q, steps, n * q, physical)
    rule.train(module, Spied(x, labels), losses, optimizer, torch.Generator().manual_seed(0), probe=False)
    assert max(map(len, seen)) == physical
    batches = [list(chain(*seen[a:b])) for a, b in pairwise([0, *ends])]
    assert len(batches) == steps and sum(map(len, batches)) == sum(map(len, seen))
    assert all(len(set(batch)) == len(batch) for batch in batches)
    sizes = np.array([len(batch) for batch in batches])
    spread = math.sqrt(n * q * (1 - q))
    assert abs(sizes.mean() - n * q) < 4 * spread / math.sqrt(steps)
    assert 0.8 < sizes.std() / spread < 1.2  # batches of a fixed size have none
    often = np.bincount(list(chain(*batches)), minlength=n) / steps
    assert np.abs(often - q).max() < 4.5 * math.sqrt(q * (1 - q) / steps)
    # A sample's coming tells nothing of its neighbour's: shuffled batches would show here.
    there = np.zeros((steps, n))
    for step, batch in enumerate(batches):
        there[step, batch] = 1
    together = np.corrcoef(there.T)[~np.eye(n, dtype=bool)]
    assert abs(together.mean()) < 4 / math.sqrt(steps * n)


@CLIPPING
def test_an_empty_batch_is_a_step_of_noise(clipping):
    calls = []

    def spied(module, batch):
        calls.append(len(batch[0]))
        return losses(module, batch)

    rule = DPSGD(1.0, 1.0, 0.2, 30, 1.0, clipping=clipping)
    module = module_of(Linear(), drawn(Linear(), 5))
    stepped = []
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    optimizer.register_step_post_hook(lambda *_: stepped.append(module.layers["head"].weight.detach().clone()))
    taken = rule.train(module, samples(2, 5), spied, optimizer, torch.Generator().manual_seed(0), probe=False)
    assert 0 < len(calls) < 30 and min(calls) > 0
    assert taken.steps == len(stepped) == 30
    assert all(not torch.equal(a, b) for a, b in pairwise(stepped))
    assert taken.certificate(1e-5) == certify(1.0, 0.2, 30, 1e-5)


def test_the_same_generator_gives_the_same_bits():
    rule = DPSGD(1.0, 1.0, 0.5, 4, 2.0, 3)
    a, b, c = (moved(module_of(Hidden(7), drawn(Hidden(7), 5)), samples(9, 5), rule, seed) for seed in (1, 1, 2))
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert not any(torch.equal(a[n], c[n]) for n in a)


def test_the_systems_generator_has_a_whole_state_of_its_own(monkeypatch):
    one, two = (generator_of("os", 0) for _ in range(2))
    assert not torch.equal(torch.rand(8, generator=one), torch.rand(8, generator=two))
    three, again = (torch.rand(8, generator=generator_of("seeded", 3)) for _ in range(2))
    assert torch.equal(three, again)
    # What the system gives is the state: a word that differs beyond the first 32 bits is another stream.
    words = bytearray(range(256)) * 10
    monkeypatch.setattr(os, "urandom", lambda size: bytes(words[:size]))
    first = torch.rand(2000, generator=generator_of("os", 0))
    assert torch.equal(first, torch.rand(2000, generator=generator_of("os", 9)))
    words[2000] ^= 1
    assert not torch.equal(first, torch.rand(2000, generator=generator_of("os", 0)))
    monkeypatch.undo()
    normal = torch.randn(20_000, generator=generator_of("os", 0))
    assert abs(float(normal.mean())) < 0.04 and abs(float(normal.std()) - 1) < 0.03


# -- what cannot be treated -------------------------------------------------------------------------------------------


class Picture(nn.Module):
    """A convolution, over an image as it lies or channels last."""

    def __init__(self, last):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head, self.last = nn.Conv2d(2, 3, 3), nn.Linear(12, 3), last

    def forward(self, x):
        image = x.view(-1, 4, 4, 2).permute(0, 3, 1, 2) if self.last else x.view(-1, 2, 4, 4)
        return self.head(self.conv(image).flatten(1))


class Scaled(nn.Linear):
    def __init__(self):
        super().__init__(5, 3)
        self.register_buffer("scale", torch.ones(1))


def unused():
    module = nn.Sequential(nn.Linear(5, 3))
    module.beside = nn.Linear(5, 3)
    module.forward = lambda x: nn.Sequential.forward(module[:1], x)
    return module


def forgetful():
    return nn.BatchNorm1d(3, track_running_stats=False).requires_grad_(False)


TEXTS = Sequences()
REFUSED = [
    (lambda: nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)), losses, samples(4, 5), "1 .BatchNorm1d"),
    (lambda: nn.Sequential(nn.Linear(5, 3), forgetful()), losses, samples(4, 5), "1 .BatchNorm1d.: it has no"),
    (lambda: nn.Sequential(Scaled()), losses, samples(4, 5), "0 .Scaled.: it keeps buffers"),
    (lambda: nn.Linear(5, 3).bfloat16(), losses, samples(4, 5), "bfloat16.*float32"),
    (lambda: nn.Linear(5, 3).requires_grad_(False), losses, samples(4, 5), "nothing to train"),
    (lambda: Text(positions="shared"), next_word, TEXTS, "place.weight.*does not see the batch"),
    (lambda: Picture(last=True), losses, samples(4, 32), "conv.weight.*channels first"),
    (unused, losses, samples(4, 5), "beside.weight takes no part"),
    (lambda: nn.Linear(5, 3), lambda m, b: losses(m, b).mean(), samples(4, 5), "mixes samples"),
    (lambda: nn.Linear(5, 3), lambda m, b: losses(m, b).mean().item(), samples(4, 5), "one loss per sample"),
]


@CLIPPING
@pytest.mark.parametrize(("make", "loss", "data", "message"), REFUSED)
def test_what_cannot_be_bounded_is_refused_by_name_and_left_as_it_was(make, loss, data, message, clipping):
    module = make().eval()
    kept = {n: p.detach().clone() for n, p in module.named_parameters()}
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    rule = DPSGD(1.0, 1.0, 0.5, 2, 1.0, clipping=clipping)
    with pytest.raises(BadInput, match=message):
        rule.train(module, data, loss, optimizer, torch.Generator())
    assert all(torch.equal(p, kept[n]) for n, p in module.named_parameters())
    assert not module.training


def test_tied_weights_need_hooks():
    module = Text(tied=True, positions="each")
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    with pytest.raises(BadInput, match=r"tied embeddings.*clipping=hooks"):
        DPSGD(1.0, 1.0, 0.5, 2, 1.0).train(module, TEXTS, next_word, optimizer, torch.Generator())


@CLIPPING
def test_a_picture_that_lies_channels_first_is_treated(clipping):
    module, data = Picture(last=False).double(), samples(6, 32, dtype=torch.float64)
    expected, _ = by_hand(module, data, 1.0)
    close(moved(module, data, DPSGD(1.0, 0.0, 1.0, 1, 1.0, clipping=clipping)), expected)


@CLIPPING
def test_a_module_is_left_without_hooks_and_frozen_parts_alone(clipping):
    frozen = nn.BatchNorm1d(4).requires_grad_(False)
    module = nn.Sequential(nn.Linear(5, 4), frozen, nn.Linear(4, 3)).double().eval()
    data = samples(6, 5, dtype=torch.float64)
    expected, clip = by_hand(module, data)  # by what the frozen part knows, not by the batch
    before, state = dict(vars(module[0])), {n: t.clone() for n, t in module.state_dict().items()}
    close(moved(module, data, DPSGD(clip, 0.0, 1.0, 1, 1.0, clipping=clipping)), expected)
    assert not module.training
    assert all(torch.equal(frozen.state_dict()[n], state[f"1.{n}"]) for n in frozen.state_dict())
    for layer in module:
        assert not layer._forward_hooks and not layer._backward_hooks
    assert set(vars(module[0])) == set(before)
    for p in module.parameters():
        assert not {"grad_sample", "_norm_sample", "summed_grad", "_forward_counter"} & set(dir(p))


def test_a_foreign_optimizer_is_refused():
    module, other = nn.Linear(5, 3), nn.Linear(5, 3)
    with pytest.raises(BadInput, match="not the module's"):
        optimizer = torch.optim.SGD(other.parameters(), lr=1.0)
        DPSGD(1.0, 1.0, 0.5, 2, 1.0).train(module, samples(4, 5), losses, optimizer, torch.Generator())


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("clip", 0.0),
        ("clip", float("nan")),
        ("noise_multiplier", -1.0),
        ("noise_multiplier", float("inf")),
        ("sampling_probability", 0.0),
        ("sampling_probability", 1.1),
        ("steps", 0),
        ("expected_batch", 0.0),
        ("physical_batch", 0),
    ],
)
def test_a_setting_out_of_range_is_named(setting, value):
    good = {"clip": 1.0, "noise_multiplier": 1.0, "sampling_probability": 0.5, "steps": 1, "expected_batch": 1.0}
    with pytest.raises(BadInput, match=f"{setting}={value}"):
        DPSGD(**{**good, setting: value})


def test_expanded_weights_are_no_choice():
    with pytest.raises(BadInput, match="unknown clipping 'ew'"):
        DPSGD(1.0, 1.0, 0.5, 1, 1.0, clipping="ew")


def test_rows_of_different_lengths_are_refused():
    with pytest.raises(BadInput, match="do not belong together"):
        Rows(torch.zeros(3, 2), torch.zeros(4))


# -- what it costs ----------------------------------------------------------------------------------------------------


def pld(m, q, steps, delta):
    accountant = PLDAccountant()
    event = dp_accounting.GaussianDpEvent(m)
    accountant.compose(dp_accounting.PoissonSampledDpEvent(q, event) if q < 1 else event, steps)
    return accountant.get_epsilon(delta)


@pytest.mark.parametrize(("epsilon", "q", "steps"), [(1.0, 0.1, 10), (2.0, 0.3, 4), (3.0, 1.0, 7)])
def test_calibration_is_certified_by_another_program(epsilon, q, steps):
    m = calibrate(epsilon, 1e-5, q, steps)
    found = certify(m, q, steps, 1e-5)
    assert 0.98 * epsilon <= found.epsilon <= epsilon * (1 + 1e-9)
    assert found.epsilon == pytest.approx(pld(m, q, steps, 1e-5), abs=1e-3)
    assert (found.noise_multiplier, found.sampling_probability, found.steps) == (m, q, steps)
    assert certify(m / 2, q, steps, 1e-5).epsilon > 1.5 * epsilon


def test_every_sample_in_every_step_is_the_closed_form():
    assert calibrate(2.0, 1e-5, 1.0, 9) == pytest.approx(3 * multiplier(2.0, 1e-5), rel=2e-9)
    m = calibrate(8.0, 1e-5, 1.0, 30)
    assert Composition(precision=sum(m**-2 for _ in range(30))).epsilon(1e-5) <= 8.0


def test_no_steps_cost_nothing_and_no_noise_costs_everything():
    assert certify(1.0, 0.1, 0, 1e-5).epsilon == 0.0
    assert certify(0.0, 0.1, 3, 1e-5).epsilon == math.inf


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((0.0, 1e-5, 0.1, 1), "epsilon=0"),
        ((1.0, 1.0, 0.1, 1), "delta=1"),
        ((1.0, 1e-5, 0.0, 1), "sampling_probability=0"),
        ((1.0, 1e-5, 0.1, 0), "steps=0"),
    ],
)
def test_a_budget_out_of_range_is_named(given, message):
    with pytest.raises(BadInput, match=message):
        calibrate(*given)

"""The generator: what is sampled, what is certified, what is learned and what is written."""

import math

import dp_accounting
import numpy as np
import pytest
import torch
from dp_accounting.pld import PLDAccountant
from scipy.stats import binom

from fedlab.errors import BadInput
from fedlab.llm.tuning.adapters import Adapters
from fedlab.llm.tuning.control_codes import encode
from fedlab.llm.tuning.private_generator import NO_NOISE, PrivateGenerator, sample
from fedlab.privacy.accounting.budget import PrivacyBudget
from fedlab.privacy.accounting.ledger import BudgetSpent, Ledger
from fedlab.privacy.dpsgd.private_gradient import generator_of
from tests.llm.tuning.families import model_of, tokenizer

CODES = ("shop | good", "film | bad")


def texts(n=20, words=(4, 12), seed=0):
    """Texts of the shop are of words below 30, those of the film of words above."""
    rng = np.random.default_rng(seed)
    found = []
    for row in range(n):
        low = 30 * (row % 2)
        found.append(" ".join(f"w{i}" for i in rng.integers(low, low + 30, size=rng.integers(*words))))
    return [CODES[row % 2] for row in range(n)], found


def fitted(rule, seed=0, data=None, family="gpt2"):
    codes, written = texts() if data is None else data
    return rule.fit(model_of(family), tokenizer(), codes, written, generator_of("seeded", seed))


# -- sampling and accounting ------------------------------------------------------------------------------------------


def sizes(n, rule):
    """How many texts each step of a training saw: what passed the model, and the steps in which nothing did."""
    model, seen = model_of("gpt2"), []
    model.transformer.wte.register_forward_hook(lambda *call: seen.append(len(call[1][0])))  # copied with it
    rule.fit(model, tokenizer(), *texts(n), generator_of("seeded", 1))
    seen = seen[3:]  # the probe
    assert len(seen) <= rule.total_steps
    return np.array(seen + [0] * (rule.total_steps - len(seen)))


def fits(found, n, q):
    """Whether batch sizes are binomial(n, q): mean and spread at five standard errors, and the distribution."""
    mean, variance = n * q, n * q * (1 - q)
    kurtosis = binom(n, q).stats("k")
    error = math.sqrt((2 + kurtosis) / len(found))
    steps = np.arange(n + 1)
    below = (found[:, None] <= steps).mean(0)
    return (
        abs(found.mean() - mean) < 5 * math.sqrt(variance / len(found))
        and abs(((found - mean) ** 2).mean() / variance - 1) < 5 * error
        and np.abs(below - binom.cdf(steps, n, q)).max() < 2.0 / math.sqrt(len(found))  # Kolmogorov, 1e-3
    )


class Fixed:
    """A loader that shuffles and cuts, as most do."""

    def __init__(self, *, num_samples, sample_rate, generator, steps):
        self.n, self.size, self.generator, self.steps = (
            num_samples,
            round(num_samples * sample_rate),
            generator,
            steps,
        )

    def __iter__(self):
        for _ in range(self.steps):
            yield torch.randperm(self.n, generator=self.generator)[: self.size].tolist()


def test_batches_are_poisson_samples_and_a_shuffling_loader_would_be_found(monkeypatch):
    n, q = 12, 0.25
    rule = PrivateGenerator(
        steps=150, sampling_probability=q, noise_multiplier=1.0, physical_batch=n, adapters=Adapters(rank=1)
    )
    found = sizes(n, rule)
    assert fits(found, n, q) and 0 in found
    monkeypatch.setattr("opacus.utils.uniform_sampler.UniformWithReplacementSampler", Fixed)
    fixed = sizes(n, rule)
    assert set(fixed) == {3} and not fits(fixed, n, q)


def independent(multiplier, q, steps, delta):
    """Google's accountant, asked directly."""
    accountant = PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    step = dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(multiplier))
    accountant.compose(dp_accounting.SelfComposedDpEvent(step, steps))
    return accountant.get_epsilon(delta)


@pytest.mark.parametrize("data", [None, ([], [])], ids=["texts", "no texts"])
def test_the_certificate_is_that_of_the_steps_taken(data):
    rule = PrivateGenerator(epsilon=2.0, delta=1e-4, epochs=1.2, sampling_probability=0.2, adapters=Adapters(rank=1))
    assert rule.total_steps == 6
    _, tuned = fitted(rule, data=data)
    assert tuned.taken.steps == 6 and tuned.texts == (20 if data is None else 0)
    expected = independent(tuned.taken.noise_multiplier, 0.2, 6, 1e-4)
    assert tuned.certificate.epsilon == pytest.approx(expected, rel=1e-6)
    assert 0.97 * 2.0 < expected <= 2.0  # all of the promise is used, and no more
    assert rule.certificate() == tuned.certificate and not tuned.notes


def test_a_ledger_charges_the_steps_before_they_are_taken():
    rule = PrivateGenerator(epsilon=2.0, steps=6, sampling_probability=0.2)
    release = rule.release("bits", "DP generator", (3,))
    ledger = Ledger(PrivacyBudget(epsilon=2.0))
    ledger.charge(release)
    assert ledger.spent(3)[0] == pytest.approx(rule.certificate().epsilon)
    assert release.mechanism == "subsampled_gaussian" and release.steps == 6
    with pytest.raises(BudgetSpent):
        ledger.charge(rule.release("other bits", "DP generator", (3,)))


@pytest.mark.parametrize("how", [{"epsilon": math.inf}, {"epsilon": None}, {"noise_multiplier": 0.0}])
def test_without_noise_gradients_are_clipped_and_it_is_said(how):
    rule = PrivateGenerator(steps=2, sampling_probability=0.5, adapters=Adapters(rank=1), **how)
    _, tuned = fitted(rule)
    assert tuned.certificate.epsilon == math.inf and tuned.notes == rule.notes == [NO_NOISE]
    with pytest.raises(BadInput, match="cannot count a release without noise"):
        rule.release("bits", "DP generator")
    assert tuned.taken.noise_multiplier == 0


def test_a_client_without_texts_moves_by_noise_alone():
    rule = PrivateGenerator(epsilon=2.0, steps=3, sampling_probability=0.2, adapters=Adapters(rank=1))
    weights = []
    for seed in (0, 0, 1):
        model, _ = fitted(rule, seed, ([], []))
        weights.append({name: p.detach() for name, p in model.named_parameters() if p.requires_grad})
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not any(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])
    assert all(bool(p.any()) for name, p in weights[0].items() if "lora_B" in name)  # which begins at zero


def test_equal_seeds_give_equal_bits_and_physical_batches_do_not_matter():
    rule = PrivateGenerator(epsilon=8.0, steps=4, sampling_probability=0.5, adapters=Adapters(rank=2))
    small = PrivateGenerator(
        epsilon=8.0, steps=4, sampling_probability=0.5, adapters=Adapters(rank=2), physical_batch=3
    )
    before = torch.get_rng_state()
    first, again, pieces, other = (
        {name: p.detach() for name, p in fitted(how, seed)[0].named_parameters() if p.requires_grad}
        for how, seed in ((rule, 0), (rule, 0), (small, 0), (rule, 1))
    )
    assert torch.equal(torch.get_rng_state(), before)
    for name, p in first.items():
        assert torch.equal(p, again[name]) and not torch.equal(p, other[name])
        assert float((p - pieces[name]).abs().max()) < 1e-4 * float(p.abs().max())


# -- texts ------------------------------------------------------------------------------------------------------------


def test_a_text_too_long_is_cut_and_counted():
    data = (["shop | good"] * 3, ["w1 w2", " ".join(["w1"] * 60), "w1 " * 11])
    rule = PrivateGenerator(noise_multiplier=1.0, steps=1, max_tokens=16, adapters=Adapters(rank=1))
    _, tuned = fitted(rule, data=data)
    assert (tuned.texts, tuned.truncated) == (3, 1)
    words = tokenizer()
    example, cut = encode(words, "shop | good", "w1 w2", "causal", 16)
    assert not cut and example.source[0] == words.bos_token_id and example.target[-1] == words.eos_token_id
    example, cut = encode(words, "shop | good", "w1 " * 60, "causal", 16)
    assert cut and len(example.source + example.target) == 16  # and nothing says that it ends there
    assert words.eos_token_id not in example.target
    long = PrivateGenerator(noise_multiplier=1.0, steps=1, max_tokens=4000, adapters=Adapters(rank=1))
    assert fitted(long, data=data)[1].truncated == 1  # the model's context is 48
    with pytest.raises(BadInput, match="leaves no room"):
        encode(words, "shop " * 15, "w1", "causal", 16)


@pytest.mark.parametrize(
    ("family", "trained", "clipping", "steps"),
    [("llama", "frozen_embeddings", "ghost", 50), ("t5", "full", "hooks", 60)],
)
def test_what_is_written_follows_the_code_it_was_learned_behind(family, trained, clipping, steps):
    rule = PrivateGenerator(
        epsilon=None,
        steps=steps,
        sampling_probability=1.0,
        expected_batch=12.0,
        learning_rate=1e-2,
        max_tokens=24,
        adapters=Adapters(trained),
        clipping=clipping,
    )
    data = texts(12)
    model, _ = fitted(rule, data=data, family=family)
    before = torch.get_rng_state()
    written = sample(model, tokenizer(), CODES, 12, 5, max_tokens=24, min_words=2, batch_size=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(written.texts) == len(written.codes) == 24 - written.dropped >= 20
    words = [
        (code, int(word[1:]))
        for code, text in zip(written.codes, written.texts, strict=True)
        for word in text.split()
        if word[1:].isdigit()
    ]
    right = [(number < 30) == (code == CODES[0]) for code, number in words]
    assert np.mean(right) > 0.9  # a model that does not look at the code is right in half
    assert sum(text in data[1] for text in written.texts) >= 12  # it knows them by heart: nobody added noise


def test_writing_is_repeated_by_its_seed_and_short_texts_are_dropped_and_counted():
    model, words = model_of("gpt2"), tokenizer()
    how = {"max_tokens": 20, "min_words": 4}
    one, again, other = (sample(model, words, CODES, 6, seed, **how) for seed in (0, 0, 1))
    assert one == again and one != other
    numbers = sample(model, words, CODES, {CODES[0]: 2, CODES[1]: 5}, 0, max_tokens=20, min_words=0)
    assert [numbers.codes.count(code) for code in CODES] == [2, 5] and numbers.dropped == 0
    assert all(text == text.strip() for text in numbers.texts)
    assert not any(mark in " ".join(numbers.texts) for mark in ("<pad>", "<s>", "<unk>", "</s>"))
    none = sample(model, words, CODES, 3, 0, max_tokens=20, min_words=18)
    assert none.texts == [] and none.dropped == 6
    assert all(len(text.split()) >= 4 for text in one.texts)
    assert not model.training


def test_top_k_of_one_is_the_most_probable_text():
    model, words = model_of("llama"), tokenizer()
    written = sample(model, words, CODES[:1], 3, 0, top_k=1, max_tokens=12, min_words=0)
    assert len(set(written.texts)) == 1


def test_codes_and_texts_belong_together():
    rule = PrivateGenerator(noise_multiplier=1.0, steps=1)
    with pytest.raises(BadInput, match="2 codes and 1 texts"):
        fitted(rule, data=(["a", "b"], ["w1"]))
    with pytest.raises(BadInput, match="writes no texts"):
        fitted(rule, family="bert")
    with pytest.raises(BadInput, match="of which 1 differ"):
        sample(model_of("gpt2"), tokenizer(), ["a", "a"], 1, 0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"steps": None}, "one of the two"),
        ({"epochs": 1.0}, "one of the two"),
        ({"steps": 0}, "steps=0"),
        ({"steps": None, "epochs": 0.0}, "epochs=0"),
        ({"epsilon": 0.0}, "epsilon"),
        ({"delta": 1.0}, "delta=1.0"),
        ({"sampling_probability": 0.0}, "sampling_probability=0.0"),
        ({"expected_batch": 0.0}, "expected_batch=0.0"),
        ({"clip": -1.0}, "clip=-1.0"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"max_tokens": 2}, "max_tokens=2"),
        ({"clipping": "ew"}, "unknown clipping 'ew'"),
        ({"noise_multiplier": -1.0}, "noise_multiplier=-1.0"),
    ],
)
def test_a_setting_out_of_range_is_named(wrong, said):
    with pytest.raises(BadInput, match=said):
        PrivateGenerator(**{"steps": 3, **wrong})

"""Every family against brute force: one backward a text, clipped, added."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from fedlab.errors import BadInput
from fedlab.llm.tuning.adapters import UNBOUNDED, Adapters, family_of
from fedlab.llm.tuning.losses import LOSSES, Example, Examples, evaluate, kind_of, seq2seq_losses
from fedlab.privacy.dpsgd.private_gradient import DPSGD
from tests.llm.tuning.families import FAMILIES, VOCABULARY, model_of
from tests.tolerance import assert_near

"""Of sums of gradients, in clips: a norm is a sum over some 10^4 products in float32, whose rounding of 6e-8 grows
with the root of their number, and Opacus adds 1e-6 to a norm."""
FAMILY = pytest.mark.parametrize("family", FAMILIES)
CLIPPING = pytest.mark.parametrize("clipping", ["ghost", "hooks"])


def examples(model, n=5, seed=0):
    """Texts of different lengths, so that all but one are padded."""
    rng, kind = np.random.default_rng(seed), kind_of(model)
    items = []
    for row in range(n):
        source, target = (tuple(rng.integers(4, VOCABULARY, size=size).tolist()) for size in (3, 2 + 3 * row))
        items.append(Example(source, target) if kind != "class" else Example(source + target, row % 3))
    return Examples(items, kind)


def prepared(family, adapters, seed=0):
    """A model to train, its adapters away from where they begin, for there half of the gradients vanish."""
    model = adapters.prepare(model_of(family, seed), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return model


def trained(module):
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def by_hand(model, data):
    loss, named = LOSSES[data.kind], trained(model)
    gradients = [torch.autograd.grad(loss(model, data[[row]]).sum(), list(named.values())) for row in range(len(data))]
    norms = [math.sqrt(sum(float(g.double().square().sum()) for g in gradient)) for gradient in gradients]
    clip = float(np.median(norms))  # half of them are clipped
    total = {name: torch.zeros_like(p) for name, p in named.items()}
    for gradient, norm in zip(gradients, norms, strict=True):
        for name, g in zip(named, gradient, strict=True):
            total[name] += g * min(1.0, clip / (norm + 1e-6))  # as Opacus has it: never above the clip
    return total, clip


def moved(model, data, rule):
    """What one step of learning rate 1 subtracted."""
    named = trained(model)
    before = {name: p.detach().clone() for name, p in named.items()}
    optimizer = torch.optim.SGD(named.values(), lr=1.0)
    rule.train(model, data, LOSSES[data.kind], optimizer, torch.Generator().manual_seed(0))
    return {name: before[name] - p.detach() for name, p in named.items()}


def check(model, clipping):
    model.train()
    data = examples(model)
    expected, clip = by_hand(model, data)
    found = moved(model, data, DPSGD(clip, 0.0, 1.0, 1, 1.0, 3, clipping))
    # The difference of two weights, too, is known to their own rounding only.
    weights = torch.cat([p.detach().flatten() for p in trained(model).values()])
    assert_near(found, expected, 1000, size=clip + float(weights.norm()))


@FAMILY
@CLIPPING
@pytest.mark.parametrize("kind", ["lora", "frozen_embeddings"])
def test_a_step_is_the_sum_of_gradients_clipped_text_by_text(family, kind, clipping):
    check(prepared(family, Adapters(kind, rank=3)), clipping)


@pytest.mark.parametrize("family", FAMILIES)
def test_everything_that_can_be_bounded_is_trained_in_full(family):
    model = prepared(family, Adapters("full"))
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    named = UNBOUNDED.get(family_of(model), ())
    assert all(any(part in name for part in named) for name in frozen) and bool(frozen) == bool(named)
    check(model, "hooks")


def test_ghost_trains_embeddings_too_where_the_head_has_its_own_weights():
    model = prepared("llama", Adapters("full"))
    assert not model.config.tie_word_embeddings
    check(model, "ghost")


@pytest.mark.parametrize("family", ["gpt2", "qwen2"])
def test_ghost_refuses_weights_that_serve_twice_and_says_what_to_do(family):
    # GPT-2's and Qwen2's heads are their embeddings
    with pytest.raises(BadInput, match=r"serve twice .tied embeddings. need clipping=hooks; or freeze them"):
        check(prepared(family, Adapters("full")), "ghost")


@FAMILY
def test_what_cannot_be_bounded_is_frozen_by_name(family):
    model = model_of(family)
    names = UNBOUNDED.get(family_of(model), ())
    for kind in ("frozen_embeddings", "full"):
        parts = dict(Adapters(kind).prepare(model, 0).named_modules())
        found = [part for name, part in parts.items() if name.rpartition(".")[2] in names]
        assert bool(found) == bool(names)
        assert not any(p.requires_grad for part in found for p in part.parameters())
    embeddings = [part for part in parts.values() if isinstance(part, nn.Embedding)]
    frozen = dict(Adapters("frozen_embeddings").prepare(model, 0).named_modules())
    assert embeddings and not any(
        part.weight.requires_grad for part in frozen.values() if isinstance(part, nn.Embedding)
    )
    if family != "bert" and model.config.tie_word_embeddings:
        assert not frozen["lm_head"].weight.requires_grad


@pytest.mark.parametrize(
    ("family", "part"), [("gpt2", "wpe"), ("t5", "relative_attention_bias"), ("gemma3", "embed_tokens")]
)
def test_without_the_freeze_dpsgd_would_refuse_these_parts(monkeypatch, family, part):
    monkeypatch.setattr("fedlab.llm.tuning.adapters.UNBOUNDED", {})
    monkeypatch.setattr("fedlab.llm.tuning.losses.Batch.positions", property(lambda batch: None))
    with pytest.raises(BadInput, match=rf"{part}.*(freeze|Freeze)"):
        check(prepared(family, Adapters("full")), "hooks")


def test_a_part_that_keeps_buffers_is_refused_by_name_with_the_remedy():
    model = model_of("llama")
    model.model.norm.register_buffer("seen", torch.zeros(1))
    with pytest.raises(BadInput, match=r"model.norm .LlamaRMSNorm.: it keeps buffers.*train LoRA"):
        Adapters("full").prepare(model, 0)
    Adapters("lora").prepare(model, 0)


def test_an_unknown_family_is_asked_for_its_layers():
    model = model_of("bert")
    model.config.model_type = "other"
    with pytest.raises(BadInput, match=r"family 'other': known are bert, .*give targets"):
        Adapters().prepare(model, 0)
    with pytest.raises(BadInput, match="is called nothing"):
        Adapters(targets=("nothing",)).prepare(model, 0)
    named = Adapters(targets=("query",)).prepare(model, 0)
    assert any("query.lora_A" in name for name in trained(named))
    llama = model_of("llama")
    llama.config.model_type = "new"
    assert any("o_proj.lora_B" in name for name in trained(Adapters().prepare(llama, 0)))  # as most name them


@pytest.mark.parametrize("kind", ["lora", "frozen_embeddings"])
def test_a_model_is_left_as_it_is_and_shares_what_stays_frozen(kind):
    model = model_of("gpt2")
    flags = [p.requires_grad for p in model.parameters()]
    kept = {name: p.detach().clone() for name, p in model.named_parameters()}
    made = [Adapters(kind).prepare(model, seed) for seed in (0, 0, 1)]
    assert [p.requires_grad for p in model.parameters()] == flags
    assert not any("lora" in name for name, _ in model.named_modules())
    check(made[0], "ghost")
    assert all(torch.equal(p, kept[name]) for name, p in model.named_parameters())
    if kind == "lora":
        own = {p.data_ptr() for p in model.parameters()}
        assert {p.data_ptr() for p in made[1].parameters() if not p.requires_grad} == own
        second, other = (dict(m.named_parameters()) for m in made[1:])
        name = next(name for name in second if "lora_A" in name)
        assert not torch.equal(second[name], other[name])
        assert torch.equal(second[name], dict(Adapters(kind).prepare(model, 0).named_parameters())[name])


def test_what_is_trained_is_float32_and_lora_leaves_the_rest():
    model = model_of("llama").bfloat16()
    lora = Adapters().prepare(model, 0)
    assert {p.dtype for p in lora.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in lora.parameters() if not p.requires_grad} == {torch.bfloat16}
    whole = Adapters("frozen_embeddings").prepare(model, 0)
    assert {p.dtype for p in whole.parameters()} == {torch.float32}
    data = examples(lora)
    rule = DPSGD(1.0, 0.0, 1.0, 1, 1.0)
    assert sum(float(gradient.abs().sum()) for gradient in moved(lora, data, rule).values()) > 0


def test_adapters_are_not_stacked_and_settings_are_checked():
    with pytest.raises(BadInput, match="adapters already"):
        Adapters().prepare(Adapters().prepare(model_of("gpt2"), 0), 0)
    for wrong in ({"kind": "all"}, {"rank": 0}, {"alpha": 0.0}):
        with pytest.raises(BadInput, match=next(iter(wrong))):
            Adapters(**wrong)


# -- losses -----------------------------------------------------------------------------------------------------------


@FAMILY
def test_a_loss_does_not_depend_on_who_stands_beside(family):
    model = model_of(family).double()
    data, others = examples(model, seed=1), examples(model, seed=2)
    alone = np.concatenate([evaluate(model, Examples([item], data.kind)) for item in data.items])
    for beside in (data.items, [*data.items[:1], *others.items[1:]], [others.items[4], *data.items[:4]]):
        together = evaluate(model, Examples(beside, data.kind))
        for item, loss in zip(beside, together, strict=True):
            if item in data.items:  # rounding of norms that work in float32 whatever they are given
                assert abs(loss - alone[data.items.index(item)]) < 1e-6
    assert len(set(alone.round(9))) == len(alone)


def test_the_loss_of_the_library_would_couple_texts():
    # The control of the test above: in `model(..., labels=).loss` text 0 counts less beside a longer neighbour.
    model = model_of("t5").double()
    data, named = examples(model), list(trained(model).values())

    def share(rows):
        """The gradient of the part that text 0 has in the loss."""
        batch = data[rows]
        answer = model(input_ids=batch.tokens, attention_mask=batch.mask, labels=batch.targets)
        own = seq2seq_losses(model, batch) * (batch.targets != -100).sum(1) / (batch.targets != -100).sum()
        assert abs(float(answer.loss.detach()) - float(own.sum().detach())) < 1e-6
        return torch.cat([g.flatten() for g in torch.autograd.grad(own[0], named)])

    assert float(share([0, 4]).norm()) < 0.5 * float(share([0, 1]).norm())


def test_a_loss_is_the_mean_over_own_targets_without_the_code():
    model = model_of("gpt2").double()
    source, target = (5, 6, 7), (8, 9, 2)
    with torch.no_grad():
        logp = model(torch.tensor([source + target])).logits.log_softmax(-1)[0]
    steps = [-float(logp[i, token]) for i, token in enumerate((source + target)[1:])]
    item = [Example(source, target), Example((5,), tuple(range(10, 30)))]
    assert abs(evaluate(model, Examples(item))[0] - np.mean(steps[2:])) < 1e-9
    assert abs(evaluate(model, Examples(item, code_too=True))[0] - np.mean(steps)) < 1e-9


def test_a_text_without_a_target_has_no_gradient():
    model = model_of("gpt2")
    assert evaluate(model, Examples([Example((5, 6), ())])) == 0.0
    with pytest.raises(BadInput, match="learns tokens, not a class"):
        Examples([Example((5, 6), 1)])[[0]]
    with pytest.raises(BadInput, match="unknown kind of model 'causl'"):
        Examples([], "causl")

"""The fine-tuned small model: what its loss is, when it stops, what it says where something is missing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedlab.errors import BadInput
from fedlab.llm.tuning.fine_tuned import SEEN, FineTuned, held_out
from fedlab.llm.tuning.small_model import Head, Labelled, SmallModel
from fedlab.llm.tuning.training import Training
from tests.llm.tuning.families import bert, model_of, save_encoder, tokenizer
from tests.tolerance import assert_near, rounding

FAST = Training(learning_rate=3e-3, head_learning_rate=1e-2, epochs=8)
NONE = Labelled(np.zeros((0, 1), np.float32), np.zeros(0, np.int64), [])


def trained(small: FineTuned, *, over: dict | None = None, **training) -> FineTuned:
    """The same with another training, and other settings."""
    return replace(small, training=replace(small.training, **training), **(over or {}))


def texts_of(n: int, seed: int, classes: int = 2, wrong: float = 0.0) -> Labelled:
    """Texts of which one word tells the class; some have the label of another."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    telling = ("good", "bad", "shop")
    texts = [" ".join(rng.permutation([telling[y], *(f"w{i}" for i in rng.integers(0, 71, 5))])) for y in labels]
    said = np.where(rng.random(n) < wrong, (labels + 1) % classes, labels)
    return Labelled(np.zeros((n, 1), np.float32), said, texts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def small(folder):
    return FineTuned(id=folder, training=FAST)


def same(one, two) -> bool:
    return set(one) == set(two) and all(np.array_equal(one[name], two[name]) for name in one)


def right(small: FineTuned, weights, tested: Labelled) -> float:
    return float((small.scores(weights, tested.x, tested.texts).argmax(1) == tested.labels).mean())


def test_it_learns_what_can_be_learned_of_private_texts_and_of_sent_ones(small):
    tested = texts_of(60, 9)
    assert isinstance(small, SmallModel) and isinstance(Head(), SmallModel)
    alone = small.teach(texts_of(120, 1), NONE, 2, 0)
    assert right(small, alone.weights, tested) > 0.9
    assert right(small, small.teach(NONE, texts_of(120, 2), 2, 0).weights, tested) > 0.9
    assert 1 <= alone.report["epochs"] <= alone.report["trained"] <= 8 and alone.report["held_out"] == 24
    assert len(alone.report["losses"]) == 1 + alone.report["trained"] and not alone.report["notes"]


def test_it_begins_with_the_best_head_on_the_frozen_encoder_or_at_zero(folder):
    private, sent, tested = texts_of(30, 1), texts_of(30, 2, wrong=0.2), texts_of(40, 9)
    small = FineTuned(
        id=folder,
        validation=0.0,
        training=Training(learning_rate=1e-30, head_learning_rate=1e-30, weight_decay=0.0, epochs=1),
    )
    _, model, _ = small._loaded(2)
    x, s, t = (_means(model, one.texts) for one in (private, sent, tested))
    scale = np.linalg.norm(np.concatenate([x, s]), axis=1).mean()
    head = Head().fit(x / scale, private.labels, s / scale, sent.labels, 2, 0)
    taught = small.teach(private, sent, 2, 0)
    found = small.scores(taught.weights, tested.x, tested.texts)
    assert np.allclose(found, Head().scores({"weight": head}, t / scale), atol=1e-4)
    zero = replace(small, probe=False)
    assert np.abs(zero.scores(zero.teach(private, sent, 2, 0).weights, tested.x, tested.texts)).max() < 1e-6


def _means(model, texts) -> np.ndarray:
    found = []
    for text in texts:  # one by one: nothing is padded
        ids = torch.tensor([tokenizer()(text)["input_ids"]])
        found.append(model.eval().network(input_ids=ids).last_hidden_state.mean(1).detach().numpy()[0])
    return np.array(found)


def test_the_same_seed_gives_the_same_bits_for_any_number_of_threads_and_draws_nothing_of_others(small):
    small = trained(small, epochs=2)
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    one = small.teach(texts_of(20, 1), texts_of(20, 2), 2, 3)
    assert torch.equal(torch.random.get_rng_state(), state)
    try:
        torch.set_num_threads(2)
        two = small.teach(texts_of(20, 1), texts_of(20, 2), 2, 3)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert same(one.weights, two.weights) and one.report == two.report
    assert not same(one.weights, small.teach(texts_of(20, 1), texts_of(20, 2), 2, 4).weights)


@pytest.mark.parametrize("shared", [True, False])
def test_a_weight_of_zero_is_local_training_and_any_other_is_not(small, shared):
    small = trained(small, epochs=2, over={"shared_head": shared})
    private, sent = texts_of(20, 1), texts_of(20, 2)
    local = small.teach(private, NONE, 2, 0)
    nothing = replace(small, weight=0.0).teach(private, sent, 2, 0)
    assert same(local.weights, nothing.weights) and local.report == nothing.report
    assert not same(local.weights, small.teach(private, sent, 2, 0).weights)


def test_a_step_follows_the_gradient_of_the_weighted_mean(folder):
    # From a head at zero, AdamW's first step of its bias is -rate * sign(gradient), and of the whole batch
    # gradient = sum of w_i (softmax - one-hot) / (n + w m): the class of more weight gains.
    def gains(weight: float) -> np.ndarray:
        small = FineTuned(
            id=folder, weight=weight, probe=False, validation=0.0, training=Training(epochs=1, batch=99, warmup=0.0)
        )
        private = Labelled(np.zeros((2, 1), np.float32), np.zeros(2, np.int64), ["good", "good"])
        sent = Labelled(np.zeros((3, 1), np.float32), np.ones(3, np.int64), ["bad", "bad", "bad"])
        return small.teach(private, sent, 2, 0).weights["head.bias"]

    assert gains(0.6) == pytest.approx([1e-3, -1e-3], rel=1e-4)  # 2 against 1.8
    assert gains(0.7) == pytest.approx([-1e-3, 1e-3], rel=1e-4)  # 2 against 2.1


def test_early_stopping_leaves_the_weights_of_the_best_epoch(small):
    small = trained(small, epochs=30, patience=2)
    private = texts_of(40, 1, wrong=0.4)  # what cannot be learned is learned by heart, and the held out texts tell
    taught = small.teach(private, NONE, 2, 0)
    losses = taught.report["losses"]
    best = int(np.argmin(losses))
    assert taught.report["epochs"] == best and taught.report["trained"] == best + 2 == len(losses) - 1 < 30
    out = held_out(private.labels, 0.2, 0)
    scores = small.scores(taught.weights, private.x[out], [t for t, o in zip(private.texts, out, strict=True) if o])
    logs = torch.from_numpy(scores).double().log_softmax(1)
    assert -logs[torch.arange(out.sum()), private.labels[out]].mean() == pytest.approx(min(losses), rel=rounding(500))


def test_held_out_texts_are_a_share_of_each_class_and_are_not_learned_from(small):
    labels = np.repeat([0, 1, 2], [20, 10, 2])
    out = held_out(labels, 0.25, 0)
    assert np.bincount(labels[out]).tolist() == [5, 2, 1]
    assert (out == held_out(labels, 0.25, 0)).all() and not (out == held_out(labels, 0.25, 1)).all()
    assert not held_out(labels, 0.0, 0).any() and not held_out(np.array([0, 0, 0, 1]), 0.25, 0).any()
    private = texts_of(20, 1)
    away = held_out(private.labels, 0.2, 0)
    words = ("good", "bad")
    others = [words[y] if gone else text for text, y, gone in zip(private.texts, private.labels, away, strict=True)]
    small = trained(small, epochs=1, over={"probe": False})
    one, two = (small.teach(replace(private, texts=t), NONE, 2, 0) for t in (private.texts, others))
    assert one.report["epochs"] == two.report["epochs"] == 1 and one.report["losses"] != two.report["losses"]
    assert same(one.weights, two.weights)


def test_too_few_texts_to_hold_any_out_is_said_and_all_epochs_are_trained(small):
    small = trained(small, epochs=2)
    few = texts_of(3, 1)
    taught = small.teach(few, NONE, 2, 0)
    assert taught.report["epochs"] == taught.report["trained"] == 2 and taught.report["losses"] == []
    assert taught.report["notes"] == ["no private text was held out, for label 1 has 1 of 3: 2 epochs were trained"]
    assert "there is none" in small.teach(NONE, few, 2, 0).report["notes"][0]
    untaught = small.teach(NONE, NONE, 2, 0)
    assert untaught.report["trained"] == 0 and not small.scores(untaught.weights, few.x, few.texts).any()
    assert replace(small, validation=0.0).teach(few, NONE, 2, 0).report["notes"] == []


def test_a_label_without_texts_is_never_said_and_sent_texts_bring_it(small):
    small, private, sent = trained(small, epochs=2), texts_of(12, 1), texts_of(30, 2, classes=3)
    tested = texts_of(30, 3, classes=3)
    local = small.teach(private, NONE, 3, 0)
    assert (small.scores(local.weights, tested.x, tested.texts).argmax(1) != 2).all()
    taught = small.teach(private, sent, 3, 0)
    assert taught.weights[SEEN].all() and small.scores(taught.weights, tested.x, tested.texts).min() > -1e30
    assert small.scores(taught.weights, tested.x[:0], []).shape == (0, 3)


def test_heads_apart_keep_the_labels_of_the_sent_texts_from_the_private_head(small):
    # Every synthetic label is wrong: one head for both is misled, a private head is not.
    private, sent, tested = texts_of(60, 1), texts_of(60, 2, wrong=1.0), texts_of(60, 9)
    small = trained(small, epochs=5, over={"weight": 1.0})
    shared, apart = (replace(small, shared_head=s).teach(private, sent, 2, 0) for s in (True, False))
    assert shared.weights[SEEN].shape == (1, 2) and apart.weights[SEEN].shape == (2, 2)
    assert right(small, shared.weights, tested) < 0.5 < 0.8 < right(small, apart.weights, tested)


def test_a_checkpoint_of_a_classifier_keeps_its_layer_where_it_fits(tmp_path):
    model_of("bert").save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    small = FineTuned(id=str(tmp_path), training=Training(epochs=1))
    own = small.teach(NONE, NONE, 3, 0).weights
    layer = model_of("bert").state_dict()["classifier.weight"].numpy()
    assert np.array_equal(own["network.classifier.weight"], layer)
    fresh = small.teach(NONE, NONE, 2, 0).weights["network.classifier.weight"]
    assert fresh.shape == (2, 32) and not fresh.any()
    assert small.teach(texts_of(12, 1), texts_of(12, 2), 2, 0).report["trained"] == 1


def test_long_texts_are_cut_and_counted_and_odd_ones_are_read(small):
    small = trained(small, epochs=1, over={"max_tokens": 8})
    odd = ["good " * 9, "bad " * 8, "", "half \ud83e"]
    taught = small.teach(Labelled(np.zeros((4, 1), np.float32), np.array([0, 1, 0, 1]), odd), NONE, 2, 0)
    assert taught.report["cut"] == 1
    scores = small.scores(taught.weights, np.zeros((2, 1), np.float32), ["good " * 8, "good " * 90])
    assert_near(scores[0], scores[1], 500)
    assert (
        replace(small, max_tokens=10**6)
        .teach(Labelled(np.zeros((2, 1), np.float32), np.array([0, 1]), ["w1 " * 49, "w2 " * 48]), NONE, 2, 0)
        .report["cut"]
        == 1
    ), "the model's own limit of 48 holds"


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (FineTuned, {"weight": -1.0}),
        (FineTuned, {"weight": float("nan")}),
        (FineTuned, {"validation": 1.0}),
        (FineTuned, {"max_tokens": 0}),
        (Training, {"learning_rate": 0.0}),
        (Training, {"head_learning_rate": -1.0}),
        (Training, {"weight_decay": -0.1}),
        (Training, {"warmup": 1.0}),
        (Training, {"epochs": 0}),
        (Training, {"batch": 0}),
        (Training, {"patience": 0}),
    ],
)
def test_bad_settings(kind, wrong):
    with pytest.raises(BadInput, match=next(iter(wrong))):
        kind(**wrong)


def test_bad_input(small, tmp_path):
    few = texts_of(4, 1)
    with pytest.raises(BadInput, match=r"labels of synthetic texts lie in 0\.\.1, expected 0\.\.0"):
        small.teach(NONE, few, 1, 0)
    with pytest.raises(BadInput, match="3 private texts have 4 labels"):
        small.teach(replace(few, texts=few.texts[:3]), NONE, 2, 0)
    with pytest.raises(BadInput, match="device 'cuda:99' is not on this machine"):
        replace(small, device="cuda:99").teach(few, NONE, 2, 0)
    with pytest.raises(BadInput, match=r"the loss after \d+ steps is \w+: lower learning_rate=1e\+30"):
        trained(small, learning_rate=1e30).teach(texts_of(40, 1), NONE, 2, 0)
    with pytest.raises(BadInput, match="no model folder"):
        FineTuned(id="./nowhere").teach(few, NONE, 2, 0)
    with pytest.raises(BadInput, match=r"no config\.json"):
        FineTuned(id=str(tmp_path)).teach(few, NONE, 2, 0)
    (tmp_path / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises(BadInput, match="as an encoder of texts"):
        FineTuned(id=str(tmp_path)).teach(few, NONE, 2, 0)
    broken = bert()
    broken.bert.encoder.layer[0].output.dense = nn.Identity()
    broken.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="lacks 2 weights of its model"):
        FineTuned(id=str(tmp_path)).teach(few, NONE, 2, 0)


def test_where_only_embeddings_are_known_a_head_judges(small):
    assert replace(small, weight=0.7).judge == Head(weight=0.7)

import numpy as np
import pytest

from fedlab.errors import BadInput
from fedlab.llm.backends.completion_cache import Texts, complete_all
from fedlab.llm.backends.huggingface import HuggingFace
from fedlab.llm.backends.tiny import Tiny, tiny
from fedlab.llm.language_model import LanguageModel, Message, Sampling
from tests.tolerance import rounding

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", reason="extra 'llm' is not installed")

PROMPTS = ["The film was", "A", "", "An unexpected sentence of some length, with é and 字"]
SEEDS = [1, 2, 3, 4]
SAMPLING = Sampling(max_tokens=12)
CHAIN = rounding(500)
"""Relative, float32: about 500 terms of sums lead to a logit of this tiny network."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A tiny model and its tokenizer in a folder, as the hub has them."""
    folder = tmp_path_factory.mktemp("tiny")
    network, tokenizer = tiny(context=128)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(saved):
    return HuggingFace(str(saved), batch=500)


def test_it_is_tiny_and_the_same_from_the_same_seed(saved):
    assert sum(file.stat().st_size for file in saved.iterdir()) < 1e6
    (one, tokenizer), (two, _), (other, _) = tiny(), tiny(), tiny(seed=1)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)
    for text in [*PROMPTS, "\n\t💡"]:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_tokenizer_learns_pairs_from_texts():
    _, bytes_only = tiny()
    _, learned = tiny(["the film, the film, the film"])
    assert len(learned("the film")["input_ids"]) < len(bytes_only("the film")["input_ids"]) == 8


def test_texts_and_what_they_took(model):
    told, progress = [], []
    answers = model.complete(PROMPTS, SAMPLING, SEEDS, lambda *p: progress.append(p), arrived=lambda *a: told.append(a))
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert sorted(told, key=lambda pair: pair[0]) == list(enumerate(answers))
    assert [a.prompt_tokens for a in answers] == [12, 1, 1, len(PROMPTS[3].encode())]
    assert all(a.tokens == 12 or a.finish == "stop" for a in answers)
    assert isinstance(model, LanguageModel)


def test_a_token_that_others_call_padding_is_one_of_the_text(model, saved, monkeypatch):
    """Nor is anyone warned of it: a mask goes with every prompt."""
    from transformers.utils import logging

    warned = []
    monkeypatch.setattr(logging.get_logger("transformers.modeling_utils"), "warning_once", warned.append)
    # Of one length, so that no mask is needed; long enough that each of the 259 tokens is drawn.
    answers = model.complete(["a prompt"] * 16, Sampling(max_tokens=100), list(range(16)))
    pad = transformers.AutoTokenizer.from_pretrained(saved).decode([0])
    assert not warned and not any(pad in answer.text for answer in answers)


def test_a_text_is_its_own_whoever_is_beside_it(saved, model):
    together = model.complete(PROMPTS, SAMPLING, SEEDS)
    alone = HuggingFace(str(saved), batch=1)
    assert [alone.complete([p], SAMPLING, [s])[0] for p, s in zip(PROMPTS, SEEDS, strict=True)] == together
    assert model.complete(PROMPTS[::-1], SAMPLING, SEEDS[::-1]) == together[::-1]
    assert model.complete(PROMPTS, SAMPLING, [9, 9, 9, 9]) != together


def test_draws_follow_the_models_probabilities(model):
    n, probabilities = 2000, first_token(model, "A")
    drawn = model.complete(["A"] * n, Sampling(1, temperature=0.3, top_p=1.0), range(n))
    # the same tempered law, from the network itself
    expected = probabilities ** (1 / 0.3) / (probabilities ** (1 / 0.3)).sum()
    tokenizer = model._model().tokenizer
    counts = {tokenizer.decode([v], skip_special_tokens=True): 0.0 for v in range(len(expected))}
    for v, p in enumerate(expected):
        counts[tokenizer.decode([v], skip_special_tokens=True)] += p
    for text in sorted(counts, key=lambda text: counts[text])[-5:]:
        found = np.mean([a.text == text for a in drawn])
        assert abs(found - counts[text]) < 5 * np.sqrt(counts[text] / n)


def first_token(model, prompt):
    loaded = model._model()
    ids = torch.tensor([loaded.tokenizer(prompt)["input_ids"]])
    with torch.inference_mode():
        return loaded.network(input_ids=ids).logits[0, -1].softmax(0).double().numpy()


def test_top_k_and_top_p_leave_the_most_probable(model):
    p = first_token(model, "A")
    order = np.argsort(-p)
    decode = model._model().tokenizer.decode
    for sampling, kept in [
        (Sampling(1, 1.0, top_k=3, top_p=1.0), 3),
        (Sampling(1, 1.0, top_p=0.05), int(np.searchsorted(np.cumsum(p[order]), 0.05)) + 1),
    ]:
        allowed = {decode([v], skip_special_tokens=True) for v in order[:kept]}
        texts = {a.text for a in model.complete(["A"] * 300, sampling, range(300))}
        assert texts == allowed
    greedy = model.complete(["A"], Sampling(1, 0.0), [1])[0].text
    assert greedy == decode([order[0]], skip_special_tokens=True)


def test_a_stop_string_ends_a_text_and_is_not_in_it(model):
    (whole,) = model.complete(["A"], Sampling(30), [5])
    stop = whole.text[4:6]
    for stops in [(stop,), ("absent", stop)]:
        (cut,) = model.complete(["A"], Sampling(30, stop=stops), [5])
        assert cut.text == whole.text[: whole.text.index(stop)] and cut.finish == "stop"
        assert cut.tokens < whole.tokens
    # its tokens are its own too, though its neighbours go on
    assert model.complete(["A", "Bcd"], Sampling(30, stop=(stop,)), [5, 6])[0] == cut


def test_likelihoods_are_those_of_the_network(model):
    found = model.log_likelihood(["A", "The film was", ""], ["b", " good", "x"])
    assert found[:, 1].tolist() == [1, 5, 1]
    ids = model._model().tokenizer
    assert found[0, 0] == pytest.approx(np.log(first_token(model, "A")[ids("b")["input_ids"][0]]), rel=CHAIN)
    # the chain rule, and the padding of a batch changes nothing
    parts = [model.log_likelihood(["The film was" + " good"[:i]], [" good"[i]])[0, 0] for i in range(5)]
    assert found[1, 0] == pytest.approx(sum(parts), rel=CHAIN)
    assert model.log_likelihood([], []).shape == (0, 2)


def test_what_does_not_fit_is_counted(model):
    with pytest.raises(BadInput, match=r"2 of 3 prompts do not fit \(first: prompt 0, 212 tokens .* is 128\)"):
        model.complete(["a" * 200, "b", "c" * 120], SAMPLING, [1, 2, 3])
    with pytest.raises(BadInput, match="1 of 1 prompts do not fit"):
        model.log_likelihood(["a" * 100], ["b" * 100])


def test_chats_need_a_template(saved, tmp_path):
    chat = (Message("user", "hi"),)
    with pytest.raises(BadInput, match="has no chat template"):
        HuggingFace(str(saved)).complete([chat], SAMPLING, [1])
    network, tokenizer = tiny(context=128)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    network.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    tuned = HuggingFace(str(tmp_path))
    assert tuned.complete([chat], SAMPLING, [1]) == tuned.complete(["user: hi\nassistant:"], SAMPLING, [1])


def test_memory_that_does_not_suffice_halves_the_batch(saved, monkeypatch):
    model = HuggingFace(str(saved), batch=4)
    expected = model.complete(PROMPTS, SAMPLING, SEEDS)
    generate, sizes, room = model._model().network.generate, [], [2]

    def small(input_ids, **options):
        sizes.append(len(input_ids))
        if len(input_ids) > room[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(input_ids=input_ids, **options)

    monkeypatch.setattr(model._model().network, "generate", small)
    assert model.complete(PROMPTS, SAMPLING, SEEDS) == expected
    assert sizes == [4, 2, 2]
    room[0] = 0
    with pytest.raises(BadInput, match="memory does not suffice for one prompt"):
        model.complete(PROMPTS, SAMPLING, SEEDS)


# peft asks transformers by a name that it will drop: nothing of ours to change.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_adapter_is_another_model(saved, tmp_path):
    peft = pytest.importorskip("peft", reason="extra 'llm' is not installed")
    network, _ = tiny(context=128)
    with torch.random.fork_rng():
        config = peft.LoraConfig(
            target_modules=["c_attn"], init_lora_weights=False, fan_in_fan_out=True, task_type="CAUSAL_LM"
        )
        peft.get_peft_model(network, config).save_pretrained(tmp_path)
    plain, tuned = HuggingFace(str(saved)), HuggingFace(str(saved), adapter=str(tmp_path))
    assert plain.fingerprint() != tuned.fingerprint()
    assert plain.log_likelihood(["A"], ["b"])[0, 0] != tuned.log_likelihood(["A"], ["b"])[0, 0]
    with pytest.raises(BadInput, match=r"no adapter_config\.json in"):
        HuggingFace(str(saved), adapter=str(saved)).complete(["A"], SAMPLING, [1])


def test_the_fingerprint_is_of_the_content(saved, tmp_path):
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    one = HuggingFace(str(saved)).fingerprint()
    assert HuggingFace(str(tmp_path), batch=3).fingerprint() == one
    assert HuggingFace(str(saved), dtype="bfloat16").fingerprint() != one
    assert Tiny().fingerprint() != Tiny(seed=1).fingerprint()


def test_a_folder_that_is_no_language_model_says_so(saved, tmp_path):
    (tmp_path / "config.json").write_text((saved / "config.json").read_text())
    with pytest.raises(BadInput, match=r"cannot load .* as a causal language model"):
        HuggingFace(str(tmp_path)).complete(["A"], SAMPLING, [1])
    from safetensors.torch import load_file, save_file

    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["transformer.h.0.mlp.c_fc.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInput, match="lacks 1 weights of its model"):
        HuggingFace(str(tmp_path)).complete(["A"], SAMPLING, [1])


def test_the_tiny_model_can_be_paid_too(tmp_path):
    with Tiny(context=64) as model:
        first = complete_all(model, ["a", "b"], SAMPLING, 1, Texts(tmp_path))
        assert complete_all(model, ["a", "b"], SAMPLING, 1, Texts(tmp_path)) == first
        assert model.complete([], SAMPLING, []) == []
        assert np.isfinite(model.log_likelihood(["a"], ["b"])).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HuggingFace("a", dtype="float8"), "unknown dtype 'float8': known are"),
        (lambda: HuggingFace("a", batch=0), "batch=0 must be a whole number >= 1"),
        (lambda: tiny(vocabulary=200), "vocabulary=200 must be a whole number >= 259"),
        (lambda: tiny(width=30), "width=30 must be a multiple of 4"),
        (lambda: tiny(context=1), "context=1 must be a whole number >= 2"),
    ],
)
def test_numbers_out_of_range_are_refused(make, message):
    with pytest.raises(BadInput, match=message):
        make()

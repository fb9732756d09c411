import json
import socket

import numpy as np
import pytest
import torch

from fedlab.errors import BadInput
from fedlab.features.backbones import HuggingFace
from tests.tolerance import assert_near

transformers = pytest.importorskip("transformers", reason="extra 'text' is not installed")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "a", "mat", "dog", "ran"]
TEXTS = ["the cat sat on the mat", "a dog ran", "the dog", ""]
CHAIN = 2 * (4 * 16 + 32)
"""Terms of the sums of two layers."""


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
    )
    transformers.BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    transformers.BertTokenizer(vocab=vocabulary).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    pytest.importorskip("PIL", reason="extra 'vision' is not installed")
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=8
    )
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    return folder


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 20, 24, 3), dtype=np.uint8)


def test_texts_from_a_local_folder(bert):
    backbone = HuggingFace(str(bert))
    features = backbone.extract(TEXTS)
    assert features.shape == (4, 16) and features.dtype == np.float32
    assert np.array_equal(backbone.extract(TEXTS), features)
    assert_near(backbone.extract(TEXTS, batch_size=1), features, CHAIN)


def test_the_mean_of_the_tokens_is_what_the_model_says(bert):
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert)
    model = transformers.AutoModel.from_pretrained(bert).eval()
    with torch.inference_mode():
        hidden = model(**tokenizer(TEXTS[0], return_tensors="pt")).last_hidden_state[0]
    assert_near(HuggingFace(str(bert)).extract(TEXTS)[0], hidden.mean(0), CHAIN)
    first = HuggingFace(str(bert), pooling="cls").extract(TEXTS)[0]
    assert_near(first, hidden[0], CHAIN)


def test_texts_are_cut_at_the_models_own_limit(bert):
    features = HuggingFace(str(bert)).extract(["cat " * 50, "cat " * 60])
    assert_near(features[0], features[1], CHAIN)


def test_images_from_a_local_folder(vit, images):
    backbone = HuggingFace(str(vit))
    features = backbone.extract(images, batch_size=2)
    assert features.shape == (5, 16)
    assert np.array_equal(backbone.extract(images, batch_size=2), features)
    # the class token where there is one
    assert np.array_equal(HuggingFace(str(vit), pooling="cls").extract(images, batch_size=2), features)
    assert not np.allclose(HuggingFace(str(vit), pooling="mean").extract(images), features)


def test_a_convolutional_map_is_averaged_over_space(tmp_path, images):
    pytest.importorskip("PIL", reason="extra 'vision' is not installed")
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1])
    transformers.ResNetModel(config).save_pretrained(tmp_path)
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    assert HuggingFace(str(tmp_path)).extract(images).shape == (5, 12)


def test_nothing_in_nothing_out(bert, vit, images):
    assert HuggingFace(str(bert)).extract([]).shape == (0, 16)
    assert HuggingFace(str(vit)).extract(images[:0]).shape == (0, 16)


def test_a_retrained_model_in_the_same_folder_is_another(tmp_path, bert):
    for file in bert.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    backbone = HuggingFace(str(tmp_path))
    before, features = backbone.fingerprint(), backbone.extract(TEXTS)
    assert before == HuggingFace(str(bert)).fingerprint()  # what it is, not where it lies
    model = transformers.BertModel.from_pretrained(tmp_path)
    torch.nn.init.normal_(model.embeddings.word_embeddings.weight)
    model.save_pretrained(tmp_path)
    assert backbone.fingerprint() != before
    assert not np.allclose(backbone.extract(TEXTS), features)


def test_the_transform_is_part_of_the_fingerprint(bert):
    hashes = {HuggingFace(str(bert), **o).fingerprint() for o in ({}, {"pooling": "cls"}, {"max_tokens": 8})}
    assert len(hashes) == 3


def test_missing_weights_are_refused_not_drawn(tmp_path, bert):
    from safetensors.torch import load_file, save_file

    for file in bert.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["encoder.layer.0.output.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInput, match="lacks 1 weights of its model"):
        HuggingFace(str(tmp_path)).extract(TEXTS)


def test_a_folder_that_is_no_model_says_so(tmp_path, bert, images):
    with pytest.raises(BadInput, match=r"no config\.json in"):
        HuggingFace(str(tmp_path)).extract(TEXTS)
    with pytest.raises(BadInput, match="no model folder at"):
        HuggingFace(str(tmp_path / "absent")).extract(TEXTS)
    with pytest.raises(BadInput, match=r"as an extractor of image features .*preprocessor_config\.json"):
        HuggingFace(str(bert)).extract(images)


def test_an_unreachable_hub_is_one_clear_message(monkeypatch):
    def refuse(*_args, **_options):
        raise socket.gaierror("no address for the hub")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(BadInput, match="'owner/absent' is not on this machine and the hub gives no answer"):
        HuggingFace("owner/absent").extract(TEXTS)


def test_a_hub_id_is_pinned_to_the_commit_on_this_machine(monkeypatch, tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--owner--kept" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}", encoding="utf-8")
    refs = tmp_path / "models--owner--kept" / "refs"
    refs.mkdir()
    (refs / "main").write_text(commit, encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    first = HuggingFace("owner/kept").fingerprint()
    assert first == HuggingFace("owner/kept", revision=commit).fingerprint()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"id": "a", "pooling": "max"}, "unknown pooling 'max': known are auto, cls, mean"),
        ({"id": "a", "max_tokens": 0}, "max_tokens=0 must be a whole number >= 1"),
    ],
)
def test_bad_options_are_refused_at_once(options, message):
    with pytest.raises(BadInput, match=message):
        HuggingFace(**options)


def test_a_name_that_is_no_id_says_so():
    with pytest.raises(BadInput, match="neither a folder nor a hub id"):
        HuggingFace("not an id!").fingerprint()

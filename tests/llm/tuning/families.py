"""One tiny model of each family, drawn at random: nothing is downloaded. And a tokenizer of whole words."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
WORDS = ("shop", "film", "|", "good", "bad", *(f"w{i}" for i in range(71)))
VOCABULARY = len(SPECIAL) + len(WORDS)
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 48,
    **IDS,
}


def gpt2():
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 48}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, **shape, **dropout, **IDS))


def llama():
    return LlamaForCausalLM(LlamaConfig(**GROUPED))


def qwen2():
    return Qwen2ForCausalLM(Qwen2Config(**GROUPED, tie_word_embeddings=True))


def gemma3():
    return Gemma3ForCausalLM(Gemma3TextConfig(**GROUPED, head_dim=8, sliding_window=8))


def t5():
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
    special = {"pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}
    return T5ForConditionalGeneration(T5Config(vocab_size=VOCABULARY, **shape, **special))


def bert():
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    shape = {k: v for k, v in GROUPED.items() if k != "num_key_value_heads"}
    return BertForSequenceClassification(BertConfig(**shape, **dropout, num_labels=3))


FAMILIES = {"gpt2": gpt2, "llama": llama, "qwen2": qwen2, "gemma3": gemma3, "t5": t5, "bert": bert}


def model_of(family, seed=0):
    """A model whose weights are of common size, norms and heads too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FAMILIES[family]()
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1 * torch.randn_like(p))
    return model.eval()


def tokenizer():
    words = {word: index for index, word in enumerate((*SPECIAL, *WORDS))}
    plain = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=plain, **names)


def save_encoder(folder):
    """Save a tiny encoder of random weights, with its tokenizer."""
    shape = {k: v for k, v in GROUPED.items() if k != "num_key_value_heads"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(BertConfig(**shape)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)

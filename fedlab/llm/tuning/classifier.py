"""Encoders of Hugging Face that name a class: a checkpoint's own classifier, or a new layer on the mean of its tokens.

    z = V mean_t h_t + b            h (t, d) the encoder's last layer, V (k, d) from zero

A checkpoint that was saved as a sequence classifier keeps its own pooling, and its last layer where that has k rows.
Whatever is new begins at zero, so nothing is drawn at random. n texts of a batch, t tokens of the longest, k outputs.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import transformers
from jaxtyping import Float, Int64
from torch import Tensor, nn

from fedlab.errors import BadInput
from fedlab.features.encoders import loading, masked_mean
from fedlab.features.transformer import reading, refuse_incomplete


class Classifier(nn.Module):
    """A network and, where it has none of its own, the layer that names a class.

    Args:
        network: Sequence classifier or encoder of Hugging Face.
        head: Layer (d -> k) of an encoder; None where the network has its own.
    """

    def __init__(self, network: Any, head: nn.Linear | None):
        super().__init__()
        self.network, self.head = network, head

    def forward(self, tokens: Int64[Tensor, "n t"], mask: Int64[Tensor, "n t"]) -> Float[Tensor, "n k"]:
        """Return the logits of padded texts."""
        if self.head is None:
            return self.network(input_ids=tokens, attention_mask=mask).logits.float()
        return self.head(self.means(tokens, mask))

    def means(self, tokens: Int64[Tensor, "n t"], mask: Int64[Tensor, "n t"]) -> Float[Tensor, "n d"]:
        """Return what an encoder's head reads."""
        return masked_mean(self.network(input_ids=tokens, attention_mask=mask).last_hidden_state, mask).float()

    def parts(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Return the parameters of the encoder, and those of what names a class."""
        encoder = self.network if self.head is not None else self.network.base_model
        inside = {id(weight) for weight in encoder.parameters()}
        rest = [weight for weight in self.parameters() if id(weight) not in inside]
        return list(encoder.parameters()), rest


@lru_cache(maxsize=1)
def load(source: str, *, revision: str | None, outputs: int, fingerprint: str) -> tuple[Any, Classifier, int]:
    """Load a classifier of k outputs and its tokenizer; kept in this process: copy it before it is trained.

    Args:
        source, revision: Folder, or hub id and its commit.
        outputs: Number of outputs, k.
        fingerprint: Hash of what lies at the source: when that changes, it is loaded anew.

    Returns:
        tokenizer, classifier, context: The last in tokens.

    Raises:
        BadInput: They cannot be loaded, or the checkpoint lacks weights.
    """
    options: dict[str, Any] = {"revision": revision} if revision else {}
    with reading(source, "an encoder of texts"):
        config = transformers.AutoConfig.from_pretrained(source, **options)
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(source, **options)
        own = any("SequenceClassification" in name for name in config.architectures or ())
        if own:
            options |= {"num_labels": outputs, "ignore_mismatched_sizes": True}
        kind: Any = transformers.AutoModelForSequenceClassification if own else transformers.AutoModel
        network, report = kind.from_pretrained(source, dtype=torch.float32, output_loading_info=True, **options)
    missing = report["missing_keys"]
    refuse_incomplete(source, (name for name in missing if own or "pooler" not in name))
    # what was drawn at random: an encoder's pooler, which is not used, and the layer of a classifier of other classes
    fresh = {*missing, *(name for name, *_ in report["mismatched_keys"])}
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name in fresh:
                weight.zero_()
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise BadInput(f"the tokenizer of {source!r} can pad with no token: choose one with a pad or an end")
    network.config.pad_token_id = tokenizer.pad_token_id
    if getattr(network.config, "is_encoder_decoder", False) and not own:
        network = network.get_encoder()
    context = min(tokenizer.model_max_length, _positions(network))
    head = None
    if not own:
        with loading():
            head = nn.Linear(network.config.hidden_size, outputs)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    return tokenizer, Classifier(network, head), context


def _positions(network: nn.Module) -> int:
    """Return how many tokens have a position; RoBERTa's kind counts from behind that of the padding."""
    positions = getattr(network.config, "max_position_embeddings", None) or 2**31
    for name, part in network.named_modules():
        if name.endswith("position_embeddings") and getattr(part, "padding_idx", None) is not None:
            return positions - part.padding_idx - 1  # pyright: ignore
    return positions

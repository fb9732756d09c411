"""Networks in evaluation mode: loaded once a process, run without gradients, in canonical batches.

The same list gives the same bits on the same device with the same number of threads; the last bits of a convolution
(5e-6) do move with the threads. That is why features are extracted once and shared, not once per worker.

Imported only by a backbone that runs a network, so that a run on plain numbers does not pay for torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, UInt8
from torch import Tensor, nn

from fedlab.errors import BadInput
from fedlab.features.batches import Progress, embed_in_batches


def torch_device(name: str) -> torch.device:
    """Look up a device by name.

    Raises:
        BadInput: If this machine has no such device; names those it has.
    """
    available = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        available.append("mps")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    known = {*available, *(entry.split(":")[0] for entry in available)}
    if device is None or str(device) not in known:
        raise BadInput(f"device {name!r} is not on this machine: available are {', '.join(available)}")
    return device


def loading() -> AbstractContextManager[None]:
    """Load a network without a side effect: the global random stream stays where it was.

    A network draws its initial weights before the stored ones replace them; without this, a run that finds
    its features in the cache would draw other random numbers afterwards than a run that does not.
    """
    return torch.random.fork_rng(devices=range(torch.cuda.device_count()))


@contextmanager
def _inference() -> Iterator[None]:
    with (
        torch.inference_mode(),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
    ):
        yield


def embed_texts(
    texts: Sequence[str],
    tokenizer: Any,
    pooled: Callable[[dict[str, Tensor]], Float[Tensor, "b d"]],
    *,
    max_tokens: int,
    device: torch.device,
    batch_size: int,
    progress: Progress | None = None,
) -> Float32[np.ndarray, "n d"]:
    """Tokenise and embed texts, longest first.

    Texts of like length share a batch, so little is spent on padding; the order is a stable sort, hence the
    same for the same list. Longest first: what does not fit in memory fails at once.

    Args:
        texts: Texts, n >= 1.
        tokenizer, pooled: Tokenizer of transformers, and the map from its tensors to the pooled rows.
        max_tokens: Tokens at which longer texts are cut.
        device, batch_size, progress: Device, texts at a time, and callback.

    Returns:
        (n, d) float32
    """
    order = np.argsort([-len(text) for text in texts], kind="stable")

    def embed(batch: Int[np.ndarray, " b"]) -> Float32[np.ndarray, "b d"]:
        tokens = tokenizer(
            # half a surrogate pair is a str in Python but no text to a tokenizer
            [texts[int(i)].encode("utf-8", "replace").decode() for i in batch],
            padding="longest",
            truncation=True,
            max_length=max_tokens,
            return_tensors="pt",
        )
        return pooled({name: tensor.to(device) for name, tensor in tokens.items()}).float().cpu().numpy()

    with _inference():
        return embed_in_batches(order, embed, batch_size=batch_size, progress=progress)


def embed_images(
    images: UInt8[np.ndarray, "n h w 3"],
    pooled: Callable[[UInt8[np.ndarray, "b h w 3"]], Float[Tensor, "b d"]],
    *,
    batch_size: int,
    progress: Progress | None = None,
) -> Float32[np.ndarray, "n d"]:
    """Embed images in the order they stand, the transform applied a batch at a time.

    Args:
        images: Images, (n, h, w, 3) uint8, n >= 1.
        pooled: Map from raw images to pooled rows, transform included.
        batch_size, progress: Images at a time, and callback.

    Returns:
        (n, d) float32
    """
    order = np.arange(len(images))
    with _inference():
        return embed_in_batches(
            order, lambda batch: pooled(images[batch]).float().cpu().numpy(), batch_size=batch_size, progress=progress
        )


def masked_mean(tokens: Float[Tensor, "b t d"], mask: Int[Tensor, "b t"]) -> Float[Tensor, "b d"]:
    """Average the tokens that are text, not padding: sum_t m_t h_t / sum_t m_t."""
    weights = mask.unsqueeze(-1).to(tokens.dtype)  # (b, t, 1)
    # an empty text may have no token at all: its row is zero, not 0 / 0
    return (tokens * weights).sum(1) / weights.sum(1).clamp(min=1.0)


def frozen(network: nn.Module, device: torch.device) -> nn.Module:
    """Put a network in evaluation mode on its device, its weights closed to training."""
    return network.eval().requires_grad_(False).to(device)

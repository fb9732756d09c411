"""Any Hugging Face model, by id or local folder, as a frozen extractor of texts or images.

The model is pinned before it is asked anything: a local folder by the hash of its files, an id by the commit
it resolves to, so that a cached feature and a fresh one cannot come from two versions of a moving branch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fedlab import checks
from fedlab.errors import BadInput, reason
from fedlab.extras import needs
from fedlab.features.backbone import Backbone
from fedlab.features.batches import Progress
from fedlab.features.weights import fingerprint_of, folder_digest

_POOLINGS = ("auto", "mean", "cls")
_EXTRA = {"text": "text", "image": "vision"}


@dataclass(frozen=True)
class HuggingFace(Backbone):
    """A model of the Hugging Face hub, or one saved in a folder, through `transformers.AutoModel`.

    Texts go through the model's tokenizer, images through its image processor. A model of two towers (CLIP,
    SigLIP) gives the tower of the data's kind, an encoder-decoder its encoder.

    Args:
        id: Hub id ('google/vit-base-patch16-224') or the path of a folder.
        revision: Branch, tag or commit of a hub id. A snapshot of it already on this machine is used as it is; only a
            model that is not is looked up on the hub.
        pooling: Pooling of tokens to one row: 'mean' without padding, the first token 'cls', or 'auto', the first
            token for an image model that has a class token and the mean for everything else. A convolutional map is
            averaged over space. A model's own pooler is never used: many checkpoints come without its weights.
        max_tokens: Tokens at which longer texts are cut, or at the model's own limit where that is shorter.

    Raises:
        BadInput: If the pooling is unknown or max_tokens below 1.
    """

    id: str
    revision: str | None = None
    pooling: str = "auto"
    max_tokens: int = 256

    kinds: ClassVar[frozenset[str]] = frozenset({"text", "image"})
    batch_size: ClassVar[int] = 32

    def __post_init__(self) -> None:
        checks.choice("pooling", self.pooling, _POOLINGS)
        checks.integer("max_tokens", self.max_tokens, least=1)

    def fingerprint(self) -> str:
        """Hash the folder's files, or the commit the hub id resolves to, and the transform."""
        weights = weights_of(*pinned(self.id, self.revision))
        return fingerprint_of("huggingface", weights=weights, pooling=self.pooling, max_tokens=self.max_tokens)

    def _embed(self, inputs: Any, kind: str, device: str, batch: int, progress: Progress | None) -> np.ndarray:
        """Embed n texts or images as (n, d) float32 rows, d being the model's width.

        Raises:
            BadInput: The hub cannot be reached, or the checkpoint lacks weights.
        """
        if len(inputs) == 0:  # a blank input tells the width
            blank = [""] if kind == "text" else np.zeros((1, 32, 32, 3), dtype=np.uint8)
            return self.extract(blank, device=device, batch_size=1)[:0]
        with needs("backbone HuggingFace", _EXTRA[kind]):
            from fedlab.features.encoders import embed_images, embed_texts, torch_device
            from fedlab.features.transformer import load_transformer

            where = torch_device(device)
            source, commit = pinned(self.id, self.revision)
            transform, network = load_transformer(source, kind, device, fingerprint=self.fingerprint(), revision=commit)
        pooling = self.pooling
        if pooling == "auto":
            embeddings = getattr(network, "embeddings", None)
            class_token = hasattr(embeddings, "cls_token") or hasattr(embeddings, "class_embedding")
            pooling = "cls" if kind == "image" and class_token else "mean"

        def pooled(tensors: dict[str, Any]) -> Any:
            return _pool(network, tensors, pooling, self.id)

        if kind == "text":
            limit = min(self.max_tokens, transform.model_max_length, _positions(network))
            return embed_texts(
                list(inputs), transform, pooled, max_tokens=limit, device=where, batch_size=batch, progress=progress
            )

        def pooled_images(images: np.ndarray) -> Any:
            pixels = transform(list(images), return_tensors="pt", input_data_format="channels_last")
            return pooled({"pixel_values": pixels["pixel_values"].to(where)})

        return embed_images(np.asarray(inputs), pooled_images, batch_size=batch, progress=progress)


def _pool(network: Any, tensors: dict[str, Any], pooling: str, name: str) -> Any:
    from fedlab.features.encoders import masked_mean

    hidden = getattr(network(**tensors), "last_hidden_state", None)
    if hidden is None or hidden.dim() not in (3, 4):
        raise BadInput(f"model {name!r} gives no last hidden state: choose an encoder of texts or images")
    if hidden.dim() == 4:  # (b, d, h, w)
        return hidden.mean((2, 3))
    if pooling == "cls":
        return hidden[:, 0]
    mask = tensors.get("attention_mask", hidden.new_ones(hidden.shape[:2]))
    return masked_mean(hidden, mask)


def _positions(network: Any) -> int:
    limit = getattr(network.config, "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else 2**31


def pinned(name: str, revision: str | None) -> tuple[str, str | None]:
    """Return where a model is loaded from: a folder and None, or a hub id and its commit.

    Raises:
        BadInput: There is no such folder, the hub has no such model, or gives no answer.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path.resolve()), None
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise BadInput(f"no model folder at {name!r}: give an existing folder or a hub id such as 'owner/name'")
    return name, commit_of(name, revision)


def weights_of(source: str, commit: str | None) -> object:
    """Return what says which weights lie there, for a fingerprint: the folder's files, or the hub id's commit."""
    return folder_digest(Path(source)) if commit is None else [source, commit]


def commit_of(name: str, revision: str | None) -> str:
    """Resolve a hub id to the commit on this machine, or else on the hub.

    Raises:
        BadInput: If the hub has no such model, or gives no answer.
    """
    with needs("backbone HuggingFace", "text"):
        from huggingface_hub import HfApi, try_to_load_from_cache
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    try:
        stored = try_to_load_from_cache(name, "config.json", revision=revision)
        if isinstance(stored, str):
            return Path(stored).parent.name
        commit = HfApi().model_info(name, revision=revision, timeout=10).sha
    except HFValidationError as error:
        raise BadInput(f"{name!r} is neither a folder nor a hub id such as 'owner/name': {error}") from error
    except HfHubHTTPError as error:
        at = f" at revision {revision!r}" if revision else ""
        raise BadInput(
            f"the hub has no model {name!r}{at} that it shows you ({reason(error)}): check the "
            "spelling, or log in with `hf auth login` if it is private or gated"
        ) from error
    except Exception as error:  # the hub's transport library raises its own kinds; all mean no answer
        raise BadInput(
            f"model {name!r} is not on this machine and the hub gives no answer ({reason(error)}): "
            "connect once, or give the path of a folder that holds the model"
        ) from error
    assert commit is not None, "the hub names a commit for every model"
    return commit

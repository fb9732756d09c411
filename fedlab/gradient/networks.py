"""What the gradient client trains: a linear head, one hidden layer, or a small convolutional network.

    Linear   h W' + b            Hidden   relu(h V' + a) W' + b            CNN   two convolutions before Hidden

A network is a value without weights; a model is named float32 arrays, which a network makes and reads. n samples,
d features, c classes. A leading dimension of k clients, (k, n, d) with every array (k, ...), gives (k, n, c): each
client's samples through its own model, which is what many clients at once are made of.

With Z the logits and s the weight of each sample in the mean, the gradient of sum_i s_i CE(Z_i, y_i) is

    R = s (softmax(Z) - Y)    dW = R' H    dV = (R W * [H > 0])' h    db = R' 1

which the dense networks write into place without autograd's graph: for small models the graph is most of the cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor
from torch.nn.functional import conv2d, cross_entropy, linear, max_pool2d

from fedlab import checks
from fedlab.errors import BadInput

Model = dict[str, Tensor]


@runtime_checkable
class Network(Protocol):
    """A map from features to logits, and where its training starts."""

    def initial(self, d: int, num_classes: int, seed: int) -> dict[str, np.ndarray]:
        """Return the initial model; the same seed gives everyone the same."""
        ...

    def activations(self, d: int, num_classes: int) -> int:
        """Return how many numbers one sample takes on its way to the loss, its features included."""
        ...

    def logits(self, model: Mapping[str, Tensor], h: Tensor) -> Tensor:
        """Return (n, c) of (n, d), or (k, n, c) of (k, n, d) and k models."""
        ...

    def descend(self, model: Model, h: Tensor, labels: Tensor, share: Tensor, into: Model, rate: float) -> Tensor:
        """Add rate times the gradient to `into`, which may be the model itself, and return the loss before it.

        Args:
            model: Model, or k of them stacked.
            h, labels: Batch for each: (n, d) and (n,), or (k, n, d) and (k, n).
            share: Weight of each sample in the loss, like the labels; 0 where a batch is filled up.
            into: Arrays to add to, like the model.
            rate: Factor of the gradient: -lr, where it goes into the model at once.
        """
        ...


@dataclass(frozen=True)
class Linear:
    """A softmax head: logits = h W' + b, from zeros, for the loss is convex."""

    def initial(self, d: int, num_classes: int, seed: int) -> dict[str, np.ndarray]:
        """Return zeros: weight (c, d) and bias (c,)."""
        return {"weight": np.zeros((num_classes, d), np.float32), "bias": np.zeros(num_classes, np.float32)}

    def activations(self, d: int, num_classes: int) -> int:
        """Return d + c."""
        return d + num_classes

    def logits(self, model: Mapping[str, Tensor], h: Tensor) -> Float32[Tensor, "*k n c"]:
        """Return h W' + b."""
        return _affine(h, model["weight"], model["bias"])

    def descend(self, model: Model, h: Tensor, labels: Tensor, share: Tensor, into: Model, rate: float) -> Tensor:
        """Add rate R' h and rate R' 1."""
        residual, loss = _residual(self.logits(model, h), labels, share)
        _add(into, "", residual, h, rate)
        return loss


@dataclass(frozen=True)
class Hidden:
    """One ReLU layer before the head: logits = relu(h V' + a) W' + b.

    Args:
        width: Width of the hidden layer.
    """

    width: int = 64

    def __post_init__(self) -> None:
        checks.integer("width", self.width, least=1, remedy="network=linear has no hidden layer")

    def initial(self, d: int, num_classes: int, seed: int) -> dict[str, np.ndarray]:
        """Return hidden.weight (w, d) He-uniform by the seed, and zeros above it."""
        rng = np.random.default_rng([seed, d, self.width])
        return {
            "hidden.weight": _he(rng, self.width, d),
            "hidden.bias": np.zeros(self.width, np.float32),
            **Linear().initial(self.width, num_classes, seed),
        }

    def activations(self, d: int, num_classes: int) -> int:
        """Return d + w + c."""
        return d + self.width + num_classes

    def logits(self, model: Mapping[str, Tensor], h: Tensor) -> Float32[Tensor, "*k n c"]:
        """Return relu(h V' + a) W' + b."""
        return Linear().logits(model, self._hidden(model, h))

    def descend(self, model: Model, h: Tensor, labels: Tensor, share: Tensor, into: Model, rate: float) -> Tensor:
        """Add the gradient of both layers."""
        hidden = self._hidden(model, h)
        residual, loss = _residual(Linear().logits(model, hidden), labels, share)
        below = (residual @ model["weight"]).mul_(hidden > 0)  # before the weights that it needs may change
        _add(into, "", residual, hidden, rate)
        _add(into, "hidden.", below, h, rate)
        return loss

    def _hidden(self, model: Mapping[str, Tensor], h: Tensor) -> Tensor:
        return _affine(h, model["hidden.weight"], model["hidden.bias"]).relu_()


@dataclass(frozen=True)
class CNN:
    """Two 3x3 convolutions, 2x2 max-pooling, one ReLU layer and the head: 1.6M weights for 32x32x3 and 10 classes.

    The network of Reddi et al., Adaptive Federated Optimization, ICLR 2021, https://arxiv.org/abs/2003.00295,
    without its dropout, so that a client's result is a function of its samples and the order of its batches.

    Args:
        shape: Height, width and channels of the image that a row of features is, flattened in this order.
        channels: Channels of the two convolutions.
        width: Width of the hidden layer.
    """

    shape: tuple[int, ...] = (32, 32, 3)
    channels: tuple[int, ...] = (32, 64)
    width: int = 128

    def __post_init__(self) -> None:
        for name, length in (("shape", 3), ("channels", 2)):
            sizes = getattr(self, name)
            if len(sizes) != length or any(not isinstance(size, int) or size < 1 for size in sizes):
                raise BadInput(f"network: {name}={list(sizes)} must be {length} integers of at least 1")
            object.__setattr__(self, name, tuple(sizes))
        if min(self.shape[:2]) < 6:
            raise BadInput(f"network: shape={list(self.shape)}: two convolutions and a pool need at least 6x6")
        checks.integer("width", self.width, least=1)

    def initial(self, d: int, num_classes: int, seed: int) -> dict[str, np.ndarray]:
        """Return He-uniform weights by the seed, zeros for the biases and the head.

        Raises:
            BadInput: A row of d features is no image of this shape.
        """
        if d != np.prod(self.shape):
            raise BadInput(
                f"network: shape={list(self.shape)} is an image of {np.prod(self.shape)} numbers, but a sample has {d} "
                "features: set network.shape, and features=identity, which leaves images as they are"
            )
        first, second = self.channels
        rng = np.random.default_rng([seed, d, self.width])
        return {
            "conv1.weight": _he(rng, first, self.shape[2], 3, 3),
            "conv1.bias": np.zeros(first, np.float32),
            "conv2.weight": _he(rng, second, first, 3, 3),
            "conv2.bias": np.zeros(second, np.float32),
            "hidden.weight": _he(rng, self.width, self._pooled),
            "hidden.bias": np.zeros(self.width, np.float32),
            **Linear().initial(self.width, num_classes, seed),
        }

    def activations(self, d: int, num_classes: int) -> int:
        """Return d and the outputs of every layer."""
        (height, width, _), (first, second) = self.shape, self.channels
        maps = (height - 2) * (width - 2) * first + (height - 4) * (width - 4) * second
        return d + maps + self._pooled + self.width + num_classes

    def logits(self, model: Mapping[str, Tensor], h: Tensor) -> Float32[Tensor, "*k n c"]:
        """Return the logits; the convolutions read the image where it lies, channels last."""
        if h.ndim == 3:
            return torch.func.vmap(self.logits)(dict(model), h)
        image = h.unflatten(1, self.shape).permute(0, 3, 1, 2)  # (n, channels, height, width), nothing moves
        maps = conv2d(image, model["conv1.weight"], model["conv1.bias"]).relu()
        maps = conv2d(maps, model["conv2.weight"], model["conv2.bias"])
        maps = max_pool2d(maps, 2).relu()  # relu and maximum commute, and a quarter remains
        flat = maps.permute(0, 2, 3, 1).flatten(1)
        hidden = linear(flat, model["hidden.weight"], model["hidden.bias"]).relu()
        return linear(hidden, model["weight"], model["bias"])

    def descend(self, model: Model, h: Tensor, labels: Tensor, share: Tensor, into: Model, rate: float) -> Tensor:
        """Add what autograd finds."""
        leaves = {name: array.detach().requires_grad_() for name, array in model.items()}
        logits = self.logits(leaves, h)
        losses = cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")
        gradient = torch.autograd.grad(losses, list(leaves.values()), share.flatten())
        for name, part in zip(leaves, gradient, strict=True):
            into[name].add_(part, alpha=rate)
        return (losses.detach().view(share.shape) * share).sum(-1)

    @property
    def _pooled(self) -> int:
        height, width, _ = self.shape
        return (height - 4) // 2 * ((width - 4) // 2) * self.channels[1]


def _affine(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return h W' + b, of one model or of a stack."""
    if weight.ndim == 2:
        return linear(h, weight, bias)
    return torch.baddbmm(bias.unsqueeze(1), h, weight.mT)


def _residual(logits: Tensor, labels: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Return R = s (softmax(Z) - Y), like the logits, and sum s CE over the samples."""
    log_p = logits.log_softmax(-1)
    index, share = labels.unsqueeze(-1), share.unsqueeze(-1)
    loss = -(log_p.gather(-1, index) * share).sum((-2, -1))
    return log_p.exp_().mul_(share).scatter_add_(-1, index, -share), loss


def _add(into: Model, layer: str, residual: Tensor, h: Tensor, rate: float) -> None:
    """Add rate R' h to the layer's weight and rate R' 1 to its bias."""
    weight = into[f"{layer}weight"]
    (weight.addmm_ if weight.ndim == 2 else weight.baddbmm_)(residual.mT, h, alpha=rate)
    into[f"{layer}bias"].add_(residual.sum(-2), alpha=rate)


def _he(rng: np.random.Generator, *shape: int) -> np.ndarray:
    bound = np.sqrt(6 / np.prod(shape[1:]))
    return rng.uniform(-bound, bound, shape).astype(np.float32)

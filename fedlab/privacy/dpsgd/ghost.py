"""Clipped sums in one backward pass: norms from each layer's input and output gradient, the sum from the same.

    grad_i W = sum_t g_it a_it'        |grad_i W|^2 = sum_{t,u} (g_it . g_iu)(a_it . a_iu)
    sum_i c_i grad_i W = sum_{i,t} (c_i g_it) a_it'

a is a layer's input, g the gradient of the loss at its output. Opacus runs a second backward pass for the last line,
and computes in both the gradients of the batch, which nobody reads: here neither happens, for only gradients at
outputs are asked of autograd. Of the first line and its square the cheaper is taken, t (d + d') numbers against
d d'; where the gradients of single samples are that small (LoRA, biases, norms), they are kept for the sum, and
never take more memory than the layer's inputs and outputs.

Bu et al., Differentially Private Optimization on Large Model at Small Cost, ICML 2023,
https://arxiv.org/abs/2210.00038; the choice by layer: Bu, Mao and Xu, NeurIPS 2022,
https://arxiv.org/abs/2205.10683. n samples, t positions of each, d inputs, d' outputs of a layer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedlab.errors import BadInput

TRANSPOSED = ("transformers.pytorch_utils", "Conv1D")
"""GPT-2's linear layer, whose weight is (d, d'); known by name, for it comes with a heavy library."""


@dataclass
class Use:
    """One call of a layer.

    Attributes:
        layer: Layer with parameters of its own that are trained.
        seen, output: Input without history, and output.
        versions: Numbers of changes in place to both, when it returned.
    """

    layer: Any
    seen: Tensor
    output: Tensor
    versions: tuple[int, int]


class Ghost:
    """Watches a module's layers until it is removed.

    Args:
        module: Module that is trained.
        norms, gradients: Norms, and gradients, of single samples by type of layer: (layer, [a], g) to values by
            parameter.
        prepare, fallback: Functions for a layer of any other type, which is prepared first.
    """

    def __init__(self, module: nn.Module, norms: Any, gradients: Any, prepare: Any, fallback: Any):
        self._norms, self._gradients, self._fallback = norms, gradients, fallback
        self._uses: list[Use] = []
        self._sums: list[_Sum] = []
        self._layers = list(self._trained(module))
        for layer in self._layers:
            if type(layer) not in gradients and not _linear(layer):
                prepare(layer)
        self._handles = [layer.register_forward_hook(self._watch) for layer in self._layers]

    def remove(self) -> None:
        """Leave the module as it was."""
        self.forget()
        for handle in self._handles:
            handle.remove()
        for layer in self._layers:
            vars(layer).pop("ft_compute_sample_grad", None)

    def forget(self) -> None:
        """Forget what was seen."""
        self._uses, self._sums = [], []

    def norms(self, values: Tensor) -> dict[nn.Parameter, Tensor]:
        """Return the norm of each sample's gradient in each parameter, (n,), from their losses, the last ones, (n,).

        Raises:
            BadInput: A layer's tensors were changed in place, or a parameter serves twice.
        """
        uses, self._uses = self._uses, []
        for use in uses:
            if use.versions != (use.seen._version, use.output._version):
                raise BadInput(
                    f"what a {type(use.layer).__name__} saw or returned was changed in place, and its gradient is "
                    "lost: say inplace=False"
                )
        outputs = [use.output for use in uses]
        gradients_at = torch.autograd.grad(values.sum(), outputs, allow_unused=True)
        squares: dict[nn.Parameter, Tensor] = {}
        summed: dict[nn.Parameter, Tensor] = {}
        self._sums = []
        for use, g in zip(uses, gradients_at, strict=True):
            if g is None:
                continue
            for p, gradient in self._of_layer(use.layer, use.seen.detach(), g.detach()).items():
                if not p.requires_grad:
                    continue
                if p in squares or (p in summed and isinstance(gradient, _Sum)):
                    raise BadInput(
                        "the module cannot be clipped: Parameter tying is not supported with Ghost Clipping. Weights "
                        "that serve twice (tied embeddings) need clipping=hooks; or freeze them, or train LoRA"
                    )
                if isinstance(gradient, _Sum):
                    squares[p] = gradient.norms
                    self._sums.append(gradient)
                else:
                    summed[p] = summed[p] + gradient if p in summed else gradient
        for p, gradients in summed.items():
            if p in squares:
                raise BadInput("a weight serves layers of different kinds: say clipping=hooks, or freeze it")
            squares[p] = gradients.reshape(len(gradients), -1).norm(dim=1)
            self._sums.append(_Kept(p, squares[p], gradients))
        return squares

    def add(self, factors: Tensor) -> None:
        """Set gradients to the sum of the samples' own, each times its factor, (n,)."""
        for term in self._sums:
            term.parameter.grad = term.sum(factors).to(term.parameter.dtype)
        self.forget()

    def _watch(self, layer: nn.Module, seen: tuple[Any, ...], output: Any) -> None:
        if not (layer.training and torch.is_grad_enabled()):
            return
        output = output if isinstance(output, Tensor) else output[0]
        if not seen or not isinstance(seen[0], Tensor):
            raise BadInput(f"{type(layer).__name__} is called without a tensor in first place: say clipping=hooks")
        self._uses.append(Use(layer, seen[0], output, (seen[0]._version, output._version)))

    def _trained(self, module: nn.Module) -> Iterator[nn.Module]:
        """Yield the layers that are treated each as a whole."""
        if any(p.requires_grad for p in module.parameters(recurse=False)):
            yield module
            if type(module) not in self._gradients:
                return
        for child in module.children():
            yield from self._trained(child)

    def _of_layer(self, layer: Any, a: Tensor, g: Tensor) -> dict[nn.Parameter, Any]:
        """Return, by parameter, gradients of single samples or what stands for them."""
        if a.is_floating_point():
            a = a.to(g.dtype)
        if _linear(layer):
            return _of_linear(layer, a, g)
        if type(layer) in self._norms:
            by_parameter = self._norms[type(layer)](layer, [a], g)
            return {p: _Again(p, norms.flatten(), layer, a, g) for p, norms in by_parameter.items()}
        every = self._gradients.get(type(layer), self._fallback)(layer, [a], g)
        return {
            p: each
            if each.numel() <= a.numel() + g.numel()
            else _Again(p, each.reshape(len(each), -1).norm(dim=1), layer, a, g)
            for p, each in every.items()
        }


@dataclass
class _Sum(ABC):
    """Norms of the gradients of single samples in a parameter, and their weighted sum."""

    parameter: Any
    norms: Tensor

    @abstractmethod
    def sum(self, factors: Tensor) -> Tensor: ...


@dataclass
class _Kept(_Sum):
    gradients: Tensor

    def sum(self, factors: Tensor) -> Tensor:
        return torch.tensordot(factors.to(self.gradients.dtype), self.gradients, dims=1)


@dataclass
class _Product(_Sum):
    """The weighted sum of left_it right_it' without those of single samples."""

    left: Tensor
    right: Tensor

    def sum(self, factors: Tensor) -> Tensor:
        left = self.left * factors.to(self.left.dtype)[:, None, None]
        return left.flatten(0, 1).mT @ self.right.flatten(0, 1)


@dataclass
class _Again(_Sum):
    """A layer that is called again, by itself, for autograd to sum."""

    layer: Any
    seen: Tensor
    gradient: Tensor

    def sum(self, factors: Tensor) -> Tensor:
        g = self.gradient * factors.to(self.gradient.dtype).view(-1, *(1,) * (self.gradient.dim() - 1))
        with torch.enable_grad():
            return torch.autograd.grad(self.layer.forward(self.seen), self.parameter, g)[0]


def _linear(layer: Any) -> bool:
    return type(layer) is nn.Linear or (type(layer).__module__, type(layer).__name__) == TRANSPOSED


def _of_linear(layer: Any, a: Tensor, g: Tensor) -> dict[nn.Parameter, Any]:
    n = len(g)
    a, g = a.reshape(n, -1, a.shape[-1]), g.reshape(n, -1, g.shape[-1])
    by_parameter: dict[Any, Any] = {}
    if layer.bias is not None:
        by_parameter[layer.bias] = g.sum(1)
    left, right = (g, a) if type(layer) is nn.Linear else (a, g)
    t, d, d_out = a.shape[1], a.shape[2], g.shape[2]
    if d * d_out <= t * (d + d_out):
        by_parameter[layer.weight] = left.mT @ right
    else:
        squared = ((a @ a.mT) * (g @ g.mT)).sum((1, 2))
        by_parameter[layer.weight] = _Product(layer.weight, squared.clamp(min=0).sqrt(), left, right)
    return by_parameter

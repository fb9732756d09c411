"""Per-sample gradients by Opacus: what it cannot treat, and a probe that it is right.

    |g_i| for every sample i,  then  sum_i min(1, C / |g_i|) g_i

A layer that does not see the batch (position embeddings, T5's relative_attention_bias), one that mixes samples
(BatchNorm, frozen too unless it is evaluated), one whose gradient Opacus gets wrong without a word (a convolution
over an image that lies channels last): each would leave a bound that does not hold. So modules are checked, and a
probe compares the norms with autograd's before anything is trained.

Opacus, https://arxiv.org/abs/2109.12298; ghost clipping, Li et al., ICLR 2022, https://arxiv.org/abs/2110.05679.
n samples, (n,) losses and norms.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fedlab.errors import BadInput
from fedlab.privacy.dpsgd.ghost import Ghost
from fedlab.privacy.libraries import part

CLIPPING = ("ghost", "hooks")
"""Ghost keeps no sample's gradient that is large: see `ghost`; hooks keeps them all. 'ew' of Opacus is wrong."""
AGREEMENT = 1e-3
"""Largest relative difference of a norm from autograd's that is rounding."""

Losses = Callable[[nn.Module, Any], Tensor]
"""(module, batch) to one loss per sample, (n,); each may depend on its own sample only."""


class Samples(Protocol):
    """What is trained on."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: list[int], /) -> Any:
        """Return the batch of these samples, at least one."""
        ...


def check_module(module: nn.Module) -> None:
    """Refuse a module whose samples cannot be told apart, and say what to do.

    Raises:
        BadInput: A trainable part mixes samples (BatchNorm) or keeps buffers, or nothing is trainable.
    """
    validators = part("opacus.validators", "ModuleValidator").VALIDATORS
    wrong = []
    mixed = mixing(module)
    for name, layer in module.named_modules():
        own = [p for p in layer.parameters(recurse=False) if p.requires_grad]
        if layer in mixed and not own and layer.running_mean is None:
            wrong.append(f"{name or 'itself'} ({type(layer).__name__}): it has no statistics but the batch's")
        if not own:
            continue
        errors = validators[type(layer)](layer) if type(layer) in validators else []
        why = None
        if errors:
            why = str(errors[0]).split(". ")[0]
        elif any(True for _ in layer.buffers()):
            why = "it keeps buffers, which nobody noises"
        elif any(p.dtype not in (torch.float32, torch.float64) for p in own):
            why = f"its {own[0].dtype} rounds norms by more than a clip allows, make it float32"
        if why:
            wrong.append(f"{name or 'itself'} ({type(layer).__name__}): {why}")
    if wrong:
        raise BadInput(
            f"DP-SGD cannot train {'; '.join(wrong)}: freeze these parts, train LoRA beside them, or replace them "
            "(GroupNorm for BatchNorm; opacus.validators.ModuleValidator.fix does it)"
        )
    if not any(p.requires_grad for p in module.parameters()):
        raise BadInput("the module has no parameter that requires a gradient: there is nothing to train")


def mixing(module: nn.Module) -> list[Any]:
    """Return the parts that average over the samples of a batch when they are trained."""
    return [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]


class Gradients:
    """Adds the clipped gradients of a physical batch to what the optimiser holds."""

    def __init__(self, module: nn.Module, private: Any, clip: float, ghost: Ghost | None):
        self._named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        self._module, self._private, self._clip, self._ghost = module, private, clip, ghost

    def add(self, rows: list[int], samples: Samples, losses: Losses) -> None:
        """Add those of these samples whose gradient is finite; none of them leave an empty batch."""
        while rows:
            values = self._losses(losses, samples[rows], len(rows))
            norms = torch.stack(list(self._norms(values).values())).norm(dim=0)
            finite = norms.isfinite()
            if bool(finite.all()):
                if self._ghost is not None:
                    self._ghost.add((self._clip / (norms + 1e-6)).clamp(max=1.0))
                return
            # 0 times infinity is no zero: the others are asked again without it.
            rows = [row for row, good in zip(rows, finite.tolist(), strict=True) if good]
            self._private.zero_grad()
        for p in self._private.params:
            if self._ghost is not None:
                p.grad = torch.zeros_like(p)
            else:
                p.grad_sample = p.new_zeros((0, *p.shape))

    def probe(self, samples: Samples, losses: Losses) -> None:
        """Compare the norms with autograd's on the first sample, at weights where no gradient vanishes.

        Raises:
            BadInput: A layer does not see the batch, or Opacus is wrong about its gradient.
        """
        kept = [p.detach().clone() for _, p in self._named]
        try:
            with torch.no_grad():
                for index, (_, p) in enumerate(self._named):  # heads and adapters begin at zero
                    wave = torch.arange(p.numel(), device=p.device, dtype=p.dtype).add(index).mul(2.399).sin()
                    p.add_(0.05 * wave.view_as(p))
            for copies in (1, 2, 3):  # a wrong batch dimension is not always right by accident
                values = self._losses(losses, samples[[0] * copies], copies)
                if self._ghost is not None:
                    values.sum().backward(retain_graph=True)
                norms = self._norms(values)
                exact = {name: float(p.grad.norm()) for name, p in self._named if p.grad is not None}
                self._private.zero_grad(set_to_none=True)
                slack = 1e-6 * max(exact.values(), default=0.0)
                for name, norm in exact.items() if copies == 1 else ():
                    if abs(float(norms[name][0]) - norm) > AGREEMENT * norm + slack:
                        raise BadInput(
                            f"the gradient of {name} has norm {norm:.4g}, Opacus finds {float(norms[name][0]):.4g}: "
                            "clipped by that it would not be bounded. A convolution must see its image "
                            "contiguous, channels first; another layer may be frozen, or trained by LoRA"
                        )
        finally:
            if self._ghost is not None:
                self._ghost.forget()
            with torch.no_grad():
                for (_, p), before in zip(self._named, kept, strict=True):
                    p.copy_(before)

    def _losses(self, losses: Losses, batch: Any, n: int) -> Tensor:
        values = losses(self._module, batch)
        if not isinstance(values, Tensor) or values.shape != (n,):
            shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise BadInput(
                f"the loss of {n} samples has shape {shape}, expected ({n},): one loss per sample, for a text the mean "
                "over its own tokens; a loss over the batch mixes samples before they are clipped"
            )
        return values

    def _norms(self, values: Tensor) -> dict[str, Tensor]:
        """Return the norms of each sample's gradient in each parameter, (n,)."""
        n = len(values)
        if self._ghost is not None:
            by_parameter = self._ghost.norms(values)
        else:
            values.sum().backward()
            by_parameter = {p: _sample_norms(p) for _, p in self._named}
        norms = {}
        for name, p in self._named:
            norm = by_parameter.get(p)
            if norm is None:
                raise BadInput(f"{name} takes no part in the loss: freeze it (requires_grad_(False))")
            if len(norm) != n:
                raise BadInput(
                    f"{name} has gradients of {len(norm)} samples where there are {n}: its layer does not see the "
                    "batch. Give position embeddings position_ids of shape (samples, tokens); freeze "
                    "relative_attention_bias and whatever else serves all samples at once"
                )
            norms[name] = norm.detach()
        return norms


@contextmanager
def per_sample(module: nn.Module, private: Any, clip: float, clipping: str) -> Iterator[Gradients]:
    """Hook a module for as long as it is trained."""
    if clipping == "ghost":
        known = part("opacus.grad_sample", "GradSampleHooksFastGradientClipping")
        names = ("prepare_layer", "ft_compute_per_sample_gradient")
        functorch = (part("opacus.grad_sample.functorch", name) for name in names)
        ghost = Ghost(module, known.NORM_SAMPLERS, known.GRAD_SAMPLERS, *functorch)
        done = ghost.remove
    else:
        ghost = None
        done = part("opacus.grad_sample", "GradSampleHooks")(module, loss_reduction="sum").cleanup
    try:
        with warnings.catch_warnings():
            # The first layer's inputs are data, which need no gradient: as it should be.
            warnings.filterwarnings("ignore", "Full backward hook is firing")
            yield Gradients(module, private, clip, ghost)
    finally:
        done()
        for owner in (*module.modules(), *module.parameters()):
            for name in ("activations", "max_batch_len", "summed_grad"):
                vars(owner).pop(name, None)  # its own: a wrapper may answer for what it wraps


def _sample_norms(p: Any) -> Tensor | None:
    """Return the norms of the gradients that Opacus left of single samples."""
    gradients = getattr(p, "grad_sample", None)
    if isinstance(gradients, list):  # several batches' where there was one: nobody can say whose they are
        return p.new_zeros(0)
    return None if gradients is None else gradients.reshape(len(gradients), -1).norm(dim=1)

"""Per-sample gradients by Opacus: the one module that imports it, what it cannot treat, and a probe that it is right.

    |g_i| for every sample i,  then  sum_i min(1, C / |g_i|) g_i

A layer that does not see the batch (position embeddings, T5's relative_attention_bias), one that mixes samples
(BatchNorm, frozen too unless it is evaluated), one whose gradient Opacus gets wrong without a word (a convolution
over an image that lies channels last): each would leave a bound that does not hold. So modules are checked, and a
probe compares the norms with autograd's before anything is trained.

Opacus, https://arxiv.org/abs/2109.12298; ghost clipping, Li et al., ICLR 2022, https://arxiv.org/abs/2110.05679.
n samples, (n,) losses and norms.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fedlab.errors import BadInput

CLIPPING = ("ghost", "hooks")
"""Ghost finds norms without the gradients, in two passes; hooks keeps each sample's. 'ew' of Opacus is wrong."""
AGREEMENT = 1e-3
"""Largest relative difference of a norm from autograd's that is rounding."""

Losses = Callable[[nn.Module, Any], Tensor]
"""(module, batch) to one loss per sample, (n,); each may depend on its own sample only."""


class Samples(Protocol):
    """What is trained on."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: list[int]) -> Any:
        """Return the batch of these samples, at least one."""
        ...


def check_module(module: nn.Module) -> None:
    """Refuse a module whose samples cannot be told apart, and say what to do.

    Raises
    ------
    BadInput
        A trainable part mixes samples (BatchNorm) or keeps buffers, or nothing is trainable.
    """
    validators = part("validators", "ModuleValidator").VALIDATORS
    wrong = []
    mixed = mixing(module)
    for name, layer in module.named_modules():
        own = [p for p in layer.parameters(recurse=False) if p.requires_grad]
        if layer in mixed and not own and layer.running_mean is None:
            wrong.append(f"{name or 'itself'} ({type(layer).__name__}): it has no statistics but the batch's")
        if not own:
            continue
        said = validators[type(layer)](layer) if type(layer) in validators else []
        why = None
        if said:
            why = str(said[0]).split(". ")[0]
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

    def __init__(self, module: nn.Module, private: Any, clip: float, hooks: Any, ghost: bool):
        self._named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        self._module, self._private, self._clip = module, private, clip
        self._hooks, self._ghost = hooks, ghost

    def add(self, rows: list[int], samples: Samples, losses: Losses) -> None:
        """Add those of these samples whose gradient is finite; none of them leave an empty batch."""
        while rows:
            values = self._losses(losses, samples[rows], len(rows))
            values.sum().backward(retain_graph=self._ghost)
            norms = torch.stack(list(self._norms(len(rows)).values())).norm(dim=0)
            finite = norms.isfinite()
            if bool(finite.all()):
                if self._ghost:
                    self._second_pass(values, norms)
                return
            # 0 times infinity is no zero: the others are asked again without it.
            rows = [row for row, good in zip(rows, finite.tolist(), strict=True) if good]
            self._private.zero_grad()
        for p in self._private.params:
            if self._ghost:
                p.grad = torch.zeros_like(p)
            else:
                p.grad_sample = p.new_zeros((0, *p.shape))

    def probe(self, samples: Samples, losses: Losses) -> None:
        """Compare the norms with autograd's on the first sample, at weights where no gradient vanishes.

        Raises
        ------
        BadInput
            A layer does not see the batch, or Opacus is wrong about its gradient.
        """
        kept = [p.detach().clone() for _, p in self._named]
        try:
            with torch.no_grad():
                for index, (_, p) in enumerate(self._named):  # heads and adapters begin at zero
                    wave = torch.arange(p.numel(), device=p.device, dtype=p.dtype).add(index).mul(2.399).sin()
                    p.add_(0.05 * wave.view_as(p))
            for copies in (1, 2, 3):  # a wrong batch dimension is not always right by accident
                self._losses(losses, samples[[0] * copies], copies).sum().backward()
                found = self._norms(copies)
                exact = {name: float(p.grad.norm()) for name, p in self._named if p.grad is not None}
                self._private.zero_grad(set_to_none=True)
                slack = 1e-6 * max(exact.values(), default=0.0)
                for name, norm in exact.items() if copies == 1 else ():
                    if abs(float(found[name][0]) - norm) > AGREEMENT * norm + slack:
                        raise BadInput(
                            f"the gradient of {name} has norm {norm:.4g}, Opacus finds {float(found[name][0]):.4g}: "
                            "clipped by that it would not be bounded. A convolution must see its image "
                            "contiguous, channels first; another layer may be frozen, or trained by LoRA"
                        )
        finally:
            with torch.no_grad():
                for (_, p), before in zip(self._named, kept, strict=True):
                    p.copy_(before)

    def _losses(self, losses: Losses, batch: Any, n: int) -> Tensor:
        try:
            values = losses(self._module, batch)
        except NotImplementedError as why:
            raise BadInput(
                f"the module cannot be clipped: {why}. Weights that serve twice (tied embeddings) need "
                "clipping=hooks; or freeze them, or train LoRA"
            ) from why
        if not isinstance(values, Tensor) or values.shape != (n,):
            shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise BadInput(
                f"the loss of {n} samples has shape {shape}, expected ({n},): one loss per sample, for a text the mean "
                "over its own tokens; a loss over the batch mixes samples before they are clipped"
            )
        return values

    def _norms(self, n: int) -> dict[str, Tensor]:
        """Return the norms of each sample's gradient in each parameter, (n,), and forget them."""
        norms = {}
        for name, p in self._named:
            found = getattr(p, "_norm_sample" if self._ghost else "grad_sample", None)
            if found is None:
                raise BadInput(f"{name} takes no part in the loss: freeze it (requires_grad_(False))")
            if not isinstance(found, Tensor) or len(found) != n:
                raise BadInput(
                    f"{name} has gradients of {len(found)} samples where there are {n}: its layer does not see the "
                    "batch. Give position embeddings position_ids of shape (samples, tokens); freeze "
                    "relative_attention_bias and whatever else serves all samples at once"
                )
            norms[name] = (found.flatten() if self._ghost else found.reshape(n, -1).norm(dim=1)).detach()
            p._norm_sample = None  # pyright: ignore[reportAttributeAccessIssue] - never taken for the next batch's
        return norms

    def _second_pass(self, values: Tensor, norms: Tensor) -> None:
        self._private.zero_grad()
        factors = (self._clip / (norms + 1e-6)).clamp(max=1.0).to(values.device)
        self._hooks.disable_hooks()
        (factors * values).sum().backward()
        self._hooks.enable_hooks()


@contextmanager
def per_sample(module: nn.Module, private: Any, clip: float, clipping: str) -> Iterator[Gradients]:
    """Hook a module for as long as it is trained."""
    if clipping == "ghost":
        hooks = part("grad_sample", "GradSampleHooksFastGradientClipping")(
            module, loss_reduction="sum", max_grad_norm=clip
        )
    else:
        hooks = part("grad_sample", "GradSampleHooks")(module, loss_reduction="sum")
    try:
        with warnings.catch_warnings():
            # The first layer's inputs are data, which need no gradient: as it should be.
            warnings.filterwarnings("ignore", "Full backward hook is firing")
            yield Gradients(module, private, clip, hooks, clipping == "ghost")
    finally:
        hooks.cleanup()
        for owner in (*module.modules(), *module.parameters()):
            for name in ("activations", "max_batch_len", "summed_grad"):
                if hasattr(owner, name):
                    delattr(owner, name)


def part(module: str, name: str) -> Any:
    """Return a name of a module of Opacus; importing it must not set up logging for the whole program.

    Raises
    ------
    BadInput
        It is not installed.
    """
    handlers = list(logging.root.handlers)
    try:
        import opacus  # noqa: F401 (it takes seconds, and most methods do without)

        return getattr(import_module(f"opacus.{module}"), name)
    except ImportError as error:
        raise BadInput('DP-SGD needs Opacus: pip install "fedlab-analytic[dp]"') from error
    finally:
        logging.root.handlers[:] = handlers

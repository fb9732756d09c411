"""How a classifier of texts is trained: AdamW whose learning rate rises and falls, stopped early, left at its best.

    min_theta  sum_i w_i CE(theta; x_i) / sum_i w_i
    rate_k  =  rate * (k + 1) / (r + 1)  for k < r,   then  rate * (K - k) / (K - r)        K steps, r = warmup K

After each epoch the loss of held out texts is measured; training stops when it has not fallen for some epochs, and the
weights of the best are restored. Epoch 0 is the beginning: where training only harms, it is undone.

Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019, https://arxiv.org/abs/1711.05101; Mosbach et
al., On the Stability of Fine-tuning BERT, ICLR 2021, https://arxiv.org/abs/2006.04884 (warm-up, decay, and enough
epochs where texts are few). n texts, c classes.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedlab import checks
from fedlab.errors import BadInput
from fedlab.llm.tuning.losses import Batch, Examples
from fedlab.llm.tuning.sampling import seeded
from fedlab.stats.arithmetic.solve import one_thread

if TYPE_CHECKING:
    from fedlab.llm.tuning.classifier import Classifier

AT_ONCE = 64
"""Texts that pass a network together where nothing is learned."""


@dataclass(frozen=True)
class Training:
    """Settings of a descent.

    Args:
        learning_rate, head_learning_rate: Highest learning rates, of the encoder and of what names a class.
        weight_decay: Decay of the weights, decoupled as in AdamW.
        warmup: Share of the steps over which the learning rate rises.
        epochs: Passes over all texts, at most.
        batch: Texts of a step.
        patience: Epochs without a lower loss of the held out texts after which training stops.
    """

    learning_rate: float = 5e-5
    head_learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.1
    epochs: int = 10
    batch: int = 16
    patience: int = 3

    def __post_init__(self) -> None:
        for name in ("learning_rate", "head_learning_rate"):
            checks.number(name, getattr(self, name), above=0, remedy="5e-5 suits most encoders")
        checks.number("weight_decay", self.weight_decay, least=0, remedy="0.01 is common")
        checks.number("warmup", self.warmup, least=0, below=1, remedy="a share of the steps")
        for name in ("epochs", "batch", "patience"):
            checks.integer(name, getattr(self, name), least=1)

    def descend(
        self,
        model: Classifier,
        data: Examples,
        weights: Float64[np.ndarray, " n"],
        check: Examples,
        num_classes: int,
        seed: int,
    ) -> dict[str, Any]:
        """Train a model where it is, on one thread, and leave it at its best epoch.

        Args:
            model: Network of one output for each class and head.
            data, weights: Texts to learn, at least one, and what each of them weighs. A target is the class, plus c
                for each head before its own.
            check: Texts that are held out; without any all epochs are trained.
            num_classes: Number of classes, c.
            seed: Seed of the order and of dropout.

        Returns:
            dict: `epochs` (of the weights kept), `trained` (in all) and `losses` (of what is held out, at the
                beginning and after each epoch).

        Raises:
            BadInput: The loss is not finite any more.
        """
        with one_thread(), seeded(seed % 2**63):
            rng = np.random.default_rng(seed)
            encoder, head = model.parts()
            optimizer = torch.optim.AdamW(
                [{"params": encoder, "lr": self.learning_rate}, {"params": head, "lr": self.head_learning_rate}],
                weight_decay=self.weight_decay,
            )
            steps = self.epochs * -(-len(data) // self.batch)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self._share(step, steps))
            relative = weights * len(data) / weights.sum()  # 1 in the mean
            losses, best = [], 0
            state = None
            if len(check):
                losses.append(_mean(model, check, num_classes))
                state = copy.deepcopy(model.state_dict())
            for epoch in range(1, self.epochs + 1):
                model.train()
                for rows, batch in data.batches(self.batch, rng.permutation(len(data)).tolist()):
                    own = torch.from_numpy(relative[rows]).float().to(data.device)
                    loss = (own * _losses(model, batch, num_classes)).mean()
                    self._refuse_diverged(loss, schedule.last_epoch)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    schedule.step()
                if state is None:
                    continue
                losses.append(_mean(model, check, num_classes))
                if losses[-1] < losses[best]:
                    best, state = epoch, copy.deepcopy(model.state_dict())
                elif epoch - best >= self.patience:
                    break
            if state is None:
                last = _losses(model.eval(), data[[0]], num_classes)
                self._refuse_diverged(last.mean(), steps)
                return {"epochs": self.epochs, "trained": self.epochs, "losses": []}
            model.load_state_dict(state)
            return {"epochs": best, "trained": len(losses) - 1, "losses": losses}

    def _share(self, step: int, steps: int) -> float:
        """Return the learning rate of a step as a share of the highest."""
        rising = self.warmup * steps
        return (step + 1) / (rising + 1) if step < rising else (steps - step) / (steps - rising)

    def _refuse_diverged(self, loss: Tensor, step: int) -> None:
        if not torch.isfinite(loss):
            raise BadInput(
                f"the loss after {step} steps is {loss.item()}: lower learning_rate={self.learning_rate} or "
                f"head_learning_rate={self.head_learning_rate}"
            )


def _losses(model: Classifier, batch: Batch, num_classes: int) -> Float[Tensor, " n"]:
    """Return the loss of each text under its own head."""
    logits = model(batch.tokens, batch.mask).view(len(batch.targets), -1, num_classes)  # (n, heads, c)
    chosen = logits[torch.arange(len(logits), device=logits.device), batch.targets // num_classes]
    return cross_entropy(chosen, batch.targets % num_classes, reduction="none")


def _mean(model: Classifier, check: Examples, num_classes: int) -> float:
    model.eval()
    with torch.no_grad():
        losses = [_losses(model, batch, num_classes) for _, batch in check.batches(AT_ONCE)]
    return float(torch.cat(losses).double().mean())

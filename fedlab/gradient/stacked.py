"""Local SGD of many clients at once: their models in one stack, their gradients from one backward pass.

    sum_i CE(w_i; batch_i)    has, as its gradient in w_i, that of client i alone

A step of a small model is a few microseconds of arithmetic inside hundreds of the interpreter's; k stacked clients
share those. Clients are sorted by size, so that those with a batch left are the first rows of the stack, and a
short last batch is filled up with rows that count for nothing. Sums are in another order than one by one, so
results agree as far as float32 does: to 1e-5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fedlab.gradient.descent import Descent
from fedlab.gradient.networks import Model, Network

STACK_BYTES = 2**22
"""What the models and batches of one stack may take: a core's share of the cache, beyond which a step waits."""
LEAST = 4
"""Clients with whole batches that a stack must hold to be faster than one after the other."""
SAMPLE_BYTES = 2**25
"""What the features of one stack's samples may take, the float64 they come from included."""


@dataclass(frozen=True)
class Stacked:
    """Trains clients that start from one model.

    Args:
        network: Network that is trained.
        descent: Rule that each follows.
        d, num_classes: Features of a sample, and classes.
    """

    network: Network
    descent: Descent
    d: int
    num_classes: int

    def groups(self, start: Model, sizes: Sequence[int]) -> list[list[int]]:
        """Return the positions of the clients that share a stack, largest clients first.

        A function of the sizes alone: the same clients give the same bits wherever they run. Groups of one are
        clients for whom a stack does not pay; clients without samples are in none.
        """
        by_size = sorted((i for i, n in enumerate(sizes) if n), key=lambda i: -sizes[i])
        groups: list[list[int]] = []
        most, samples = 0, 0
        for i in by_size:
            if not groups or len(groups[-1]) >= most or samples + sizes[i] > SAMPLE_BYTES // (20 * self.d):
                groups.append([])
                most, samples = STACK_BYTES // self._bytes(start, sizes[i]), 0
            groups[-1].append(i)
            samples += sizes[i]
        return groups

    def pays(self, start: Model) -> bool:
        """Return whether enough clients would share a stack."""
        return LEAST * self._bytes(start, self.descent.batch_size) <= STACK_BYTES

    def _bytes(self, start: Model, n: int) -> int:
        rows = min(n, self.descent.batch_size)
        models = 2 if self.descent.momentum or self.descent.proximal else 1  # with v, or w alone
        weights = sum(array.numel() for array in start.values())
        return 4 * (models * weights + 2 * rows * self.network.activations(self.d, self.num_classes))

    def run(
        self,
        start: Model,
        h: Float32[Tensor, "n d"],
        labels: Int64[Tensor, " n"],
        sizes: Sequence[int],
        seeds: Sequence[int],
    ) -> tuple[Model, Float32[Tensor, " k"]]:
        """Return all trained models, each array (k, ...), and each client's mean loss in its last epoch.

        Args:
            start: Global model; it is not changed.
            h, labels: Samples of all clients, one client after the other.
            sizes: Samples per client, (k,), from the largest to the smallest, each at least 1.
            seeds: Seeds of the order of each client's batches, (k,).
        """
        k, batch = len(sizes), self.descent.batch_size
        model = {name: array.expand(k, *array.shape).clone() for name, array in start.items()}
        velocity = self.descent.rest(model)
        # Where an order ends it says -1, and the last row is nobody's.
        h, labels = (torch.cat([tensor, torch.zeros_like(tensor[:1])]) for tensor in (h, labels))
        ends = torch.tensor(sizes).cumsum(0).tolist()
        orders = [self.descent.orders(n, seed) for n, seed in zip(sizes, seeds, strict=True)]
        counts = torch.tensor(sizes, dtype=torch.float32, device=h.device)
        total = torch.zeros_like(counts)
        for epoch in zip(*orders, strict=True):
            rows = [order.add_(end - n) for order, end, n in zip(epoch, ends, sizes, strict=True)]
            padded = pad_sequence(rows, batch_first=True, padding_value=-1).to(h.device)
            total.zero_()
            active = k
            for first in range(0, sizes[0], batch):
                while sizes[active - 1] <= first:
                    active -= 1
                taken = padded[:active, first : first + batch]
                rows_left = (counts[:active] - first).clamp(max=batch)
                share = (taken >= 0) / rows_left.unsqueeze(1)
                w, v = _first(active, model), None if velocity is None else _first(active, velocity)
                loss = self.descent.step(self.network, w, h[taken], labels[taken], share, start, v)
                total[:active] += loss * rows_left
        return model, total / counts


def _first(k: int, model: Model) -> Model:
    return {name: array[:k] for name, array in model.items()}

"""What a client of a finished run would answer again: the run's world, rebuilt from its own config.

    s_k = observe(rows of k)        the same samples, the same learner, and so the same statistics

A deletion needs it where only some samples leave, where what was kept is lost, and where a head is to be held
against one that is trained from the data anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate

from experiments.runner.compare import build_world, describe
from experiments.runner.resume import reopen
from fedlab.audit.deletion import TOLERANCE, relative
from fedlab.engine.messages.identity import FIRST_CLIENT_NODE
from fedlab.engine.persistence.statistics_store import Part, State
from fedlab.errors import BadInput
from fedlab.stats import plain_sums
from fedlab.stats.serialization.packed_total import unpack_total
from fedlab.tracking.run_directory import RunDirectory
from fedlab.unlearning.exact import ExactUnlearning
from fedlab.world import World


class Again:
    """The clients of a run; nothing is loaded before it is asked for.

    Args:
        directory: Directory of the run.
        name: Name of the method.
        unlearning: Sums that it has kept.
    """

    def __init__(self, directory: RunDirectory, name: str, unlearning: ExactUnlearning):
        self._directory, self._name, self._unlearning = directory, name, unlearning

    def sent(self, client: int) -> list[Mapping[str, np.ndarray]]:
        """Return what a client sends again, part by part as it did."""
        world, model = self._world, self._model
        answers = []
        for part in self._unlearning.parts(client):
            *missed, step = map(self._step, part.rounds)
            x, labels, _ = world.clients([client], step, 0, missed)
            answers.append(model.train({}, {}, x, labels, 0)[0])
        return answers

    def observed(self, client: int, rows: Iterable[int]) -> dict[int, Any]:
        """Return the statistics of some samples of a client, in each phase that has some of them.

        Raises:
            BadInput: The client does not hold one of them, its data are not what they were, or so few are left that
                it would not have answered.
        """
        wanted, before = set(rows), set(self._unlearning.forgotten(client))
        held = self._held(client, self._unlearning.parts(client))
        everything = {int(row) for part in held.values() for row in part}
        if strange := sorted(wanted - everything):
            raise BadInput(
                f"row {strange[0]} of the training split is not among the {len(everything)} samples that client "
                f"{client} has in the sums: they were never added"
            )
        left = len(everything - wanted - before)
        if 0 < left < self._model.min_samples:
            raise BadInput(
                f"client {client} would have {left} samples left, and with fewer than "
                f"min_samples={self._model.min_samples} it would not have answered: delete the whole client"
            )
        statistics = {}
        for phase, own in held.items():
            self._check(client, phase, [row for row in own if int(row) not in before])
            if here := [int(row) for row in own if int(row) in wanted]:
                statistics[phase] = self._observe(here)
        return statistics

    def summed(self, state: State) -> dict[int, Any]:
        """Return the sums of everyone who is left, from the data: training without those who are not."""
        by_phase: dict[int, list[int]] = {}
        for node, parts in sorted(state.clients.items()):
            gone = set(state.forgotten.get(node) or ())
            for phase, rows in self._held(node - FIRST_CLIENT_NODE, parts).items():
                by_phase.setdefault(phase, []).extend(int(row) for row in rows if int(row) not in gone)
        return {phase: self._observe(rows) for phase, rows in sorted(by_phase.items())}

    def _check(self, client: int, phase: int, rows: list[int]) -> None:
        parts = [part for part in self._unlearning.parts(client) if part.phase == phase]
        kept = unpack_total(self._unlearning.kept.arrays(part.stored) for part in parts)
        now = self._observe(rows)
        same = now.sha256 == kept.sha256
        if not same and plain_sums(now).scale is None and now.count == kept.count:
            same = relative(plain_sums(now).gram, plain_sums(kept).gram) <= TOLERANCE
        if not same:
            raise BadInput(
                f"client {client} holds {now.count} samples that do not sum to what was kept of its {kept.count}: its "
                "data or its software changed since the run. Delete the whole client"
            )

    def _held(self, client: int, parts: Iterable[Part]) -> dict[int, np.ndarray]:
        """Return the rows of a client that are in the sums, phase by phase, those deleted one by one included."""
        client_stream, least = self._world.client_stream, self._model.min_samples
        by_phase: dict[int, list[np.ndarray]] = {}
        for part in parts:
            if client_stream is None:
                answers = [self._world.federation.parts[client]]
            else:
                answers = [client_stream.met(client, self._step(number)) for number in part.rounds]
            by_phase.setdefault(part.phase, []).extend(rows for rows in answers if len(rows) >= least)
        return {phase: np.concatenate(rows) for phase, rows in by_phase.items() if rows}

    def _observe(self, rows: list[int]) -> Any:
        chosen = torch.tensor(rows, dtype=torch.int64, device=self._world.train.device)
        return self._model.observe(self._world.train[chosen], self._world.train_labels[chosen])

    def _step(self, number: int) -> int:
        return (number - 1) // self._rounds

    @cached_property
    def _cfg(self) -> Any:
        return reopen(self._directory.path, [])[0]

    @cached_property
    def _rounds(self) -> int:
        return self._cfg.methods[self._name].rounds

    @cached_property
    def _world(self) -> World:
        return build_world(self._cfg, self._directory)

    @cached_property
    def _model(self) -> Any:
        return instantiate(describe(self._cfg, self._name)["client"], num_classes=self._world.num_classes)

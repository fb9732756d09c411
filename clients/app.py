"""The ClientApp: one for every method, on LocalGrid, RayGrid and Flower's own engine and deployment alike.

`context.run_config["config"]` is one JSON string (Flower's run config is flat); the node's `partition-id`
says whose samples it holds. A method is a `fedlab.method.Learner`; only this file knows Flower.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from hydra.utils import instantiate

from fedlab import world
from fedlab.engine.aggregation.averaging import WeightedMean
from fedlab.engine.messages.records import WEIGHT, content_bytes, from_record, records_of, to_record
from fedlab.engine.simulation.batched_app import BatchedClientApp, ClientBatch
from fedlab.errors import BadInput
from fedlab.evaluation.classification import classification
from fedlab.method import Answer, Learner, learner_of

app = BatchedClientApp()
MEMORY = "fedlab.memory"
"""Under which a node's state holds what a method remembers from round to round."""


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer with what the method learns from this node's samples."""
    question = _Question(context.run_config, context.node_config.get("num-partitions"), message.content)
    if question.learner.remembers:
        kept = records_of(context.state, ConfigRecord).get(MEMORY, {})
        memory = {name: value for name, value in kept.items() if isinstance(value, bytes)}
        arrays, memory = question.respond(_partition(context), memory)
        context.state[MEMORY] = ConfigRecord({**memory})
        return Message(_content(arrays, {}), reply_to=message)
    return Message(_content(*question.train(_partition(context))), reply_to=message)


@app.together("train")
def train_together(batch: ClientBatch) -> list[RecordDict] | None:
    """Answer for many clients what `train` answers for each, where the method can and it pays."""
    answers = _of_batch(batch).train_many(batch.partitions)
    return None if answers is None else [_content(*answer) for answer in answers]


@app.in_total("train")
def train_in_total(batch: ClientBatch) -> tuple[RecordDict, int] | None:
    """Answer with the sum, or the mean, of what `train` answers for each."""
    question = _of_batch(batch)
    running = batch.partial_sum() if batch.partial_sum else None
    if not isinstance(running, WeightedMean):
        samples = question.samples(batch.partitions)
        total = question.learner.train_in_total(*samples, question.arrays, question.settings)
        return None if total is None else (_content(total[0], {}), total[1])
    for answer in question.train_many(batch.partitions) or map(question.train, batch.partitions):
        running.add_arrays(*answer)
    mean = running.content()
    return mean, len(batch.partitions) * content_bytes(mean)  # a client's reply is as large as their mean


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Answer with the model's metrics on this node's own samples, of all steps so far."""
    question = _Question(context.run_config, context.node_config.get("num-partitions"), message.content)
    x, labels, _ = question.samples([_partition(context)], everything=True)
    metrics: dict[str, int | float] = {WEIGHT: len(labels)}
    if len(labels):
        scores = question.learner.scores(question.arrays, question.learner.features(x))
        metrics |= classification(labels.cpu().numpy(), scores.argmax(1).cpu().numpy())
    return Message(RecordDict({"metrics": MetricRecord({**metrics})}), reply_to=message)


class _Question:
    """What a message asks: a method, its settings of this round, and the samples that it is about."""

    def __init__(self, run_config: Mapping[str, Any], nodes: object, content: RecordDict):
        self._description, self._everyone, self.learner = _described(str(run_config["config"]))
        clients = self._everyone.federation.num_clients
        if nodes != clients:
            raise BadInput(f"the config describes {clients} clients but {nodes} nodes take part: set clients={nodes}")
        self.settings = dict(records_of(content, ConfigRecord)["config"])
        self.arrays = from_record(records_of(content, ArrayRecord)["arrays"])
        self._round = int(str(self.settings.get("server-round", 0)))

    def samples(
        self, partitions: Sequence[int], everything: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
        """Return the features and labels that clients learn from in this round, and how many are whose.

        Where data come as a stream these are what a client meets in the step that the round belongs to (and in
        those that it is told it missed), and what the method lets it remember; with `everything`, all that it has met.
        """
        if self._everyone.client_stream is None:
            return self._everyone.clients(partitions)
        if not self._round:
            raise BadInput("this strategy does not tell its clients the round, by which they know the step")
        per_step = self._description["rounds"]
        step = (self._round - 1) // per_step
        missed = (np.array(self.settings.get("missed-rounds", []), dtype=np.int64) - 1) // per_step
        memory = None if everything else self._description.get("buffer", 0)
        return self._everyone.clients(partitions, step, memory, missed.tolist() if memory == 0 else ())

    def train(self, partition: int) -> Answer:
        """Return what the method answers for one client."""
        x, labels, _ = self.samples([partition])
        return self.learner.train(self.arrays, self.settings, x, labels, self._seed(partition))

    def respond(self, partition: int, memory: Mapping[str, bytes]) -> tuple[dict[str, np.ndarray], Mapping[str, bytes]]:
        """Return what a method that takes several rounds answers in this one, and what it then remembers."""
        clients, seed = self._everyone.federation.num_clients, self._seed(partition)
        samples = partial(self._own, partition)
        return self.learner.respond(self.arrays, self.settings, samples, memory, partition, clients, seed)

    def _own(self, partition: int) -> tuple[Any, ...]:
        x, labels, _ = self.samples([partition])
        if not self.learner.reads_texts:
            return x, labels
        if self._everyone.client_stream is not None:
            raise BadInput("this method reads its texts once, and a stream brings them bit by bit: say stream=null")
        federation = self._everyone.federation
        return x, labels, federation.dataset.train.take(federation.parts[partition])

    def train_many(self, partitions: Sequence[int]) -> list[Answer] | None:
        """Return what the method answers for all in one call; None where it had better not."""
        if self.learner.remembers:
            return None
        x, labels, sizes = self.samples(partitions)
        seeds = [self._seed(partition) for partition in partitions]
        return self.learner.train_many(self.arrays, self.settings, x.split(sizes), labels.split(sizes), seeds)

    def _seed(self, partition: int) -> int:
        words = [self._description["seed"], self._round, partition]
        return int(np.random.SeedSequence(words).generate_state(1)[0])


def _of_batch(batch: ClientBatch) -> _Question:
    return _Question(batch.run_config, batch.num_partitions, batch.content)


def _content(arrays: Mapping[str, np.ndarray], metrics: Mapping[str, int | float]) -> RecordDict:
    content = RecordDict({"arrays": to_record(arrays)})
    if metrics:
        content["metrics"] = MetricRecord({**metrics})
    return content


def _partition(context: Context) -> int:
    return int(context.node_config["partition-id"])


@lru_cache(maxsize=4)
def _described(config: str) -> tuple[dict[str, Any], world.World, Learner]:
    """Return what a config describes: itself, everyone's samples and the method's model; kept for the next message."""
    description = json.loads(config)
    parts = {part: instantiate(description.get(part)) for part in world.PARTS}
    settings = {name: description[name] for name in ("clients", "seed", "device")}
    everyone = world.build(**parts, **settings)
    return (description, everyone, learner_of(instantiate(description["client"], num_classes=everyone.num_classes)))

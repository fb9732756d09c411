"""The ClientApp: one for every method, on LocalGrid, RayGrid and Flower's own engine and deployment alike.

`context.run_config["config"]` is one JSON string (Flower's run config is flat); the node's `partition-id`
says whose samples it holds. A method is any object with `initial`, `train`, `features` and `scores`; only
this file knows Flower.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from flwr.app import Context, Message, MetricRecord, RecordDict
from hydra.utils import instantiate

from fedlab import world
from fedlab.engine.averaging import WeightedMean
from fedlab.engine.cohort import Cohort, CohortApp
from fedlab.engine.records import WEIGHT, content_bytes, from_record, to_record
from fedlab.errors import BadInput
from fedlab.metrics import classification

app = CohortApp()
Answer = tuple[dict[str, np.ndarray], dict[str, int | float]]
"""A method's arrays and metrics."""


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer with what the method learns from this node's samples."""
    model, everyone, seed = _method(context.run_config, context.node_config.get("num-partitions"))
    settings, partition = _settings(message.content), _partition(context)
    arrays = from_record(message.content.array_records["arrays"])
    x, labels = everyone.client(partition)
    answer = model.train(arrays, settings, x, labels, _client_seed(seed, settings, partition))
    return Message(_content(*answer), reply_to=message)


@app.together("train")
def train_together(cohort: Cohort) -> list[RecordDict] | None:
    """Answer for many clients what `train` answers for each, where the method can and it pays."""
    answers = _answers(cohort)
    return None if answers is None else [_content(*answer) for answer in answers]


@app.in_total("train")
def train_in_total(cohort: Cohort) -> tuple[RecordDict, int] | None:
    """Answer with the sum, or the mean, of what `train` answers for each."""
    model, everyone, _ = _method(cohort.run_config, cohort.num_partitions)
    if hasattr(model, "train_in_total"):
        arrays, num_bytes = model.train_in_total(*everyone.clients(cohort.partitions))
        return _content(arrays, {}), num_bytes
    running = cohort.addition() if cohort.addition else None
    if not isinstance(running, WeightedMean):
        return None
    for answer in _answers(cohort) or _one_by_one(cohort):
        running.add_arrays(*answer)
    mean = running.content()
    return mean, len(cohort.partitions) * content_bytes(mean)  # a client's reply is as large as their mean


def _answers(cohort: Cohort) -> list[Answer] | None:
    """Return what the method answers for all clients in one call; None where it had better not."""
    model, everyone, seed = _method(cohort.run_config, cohort.num_partitions)
    if not hasattr(model, "train_many"):
        return None
    settings, arrays = _settings(cohort.content), from_record(cohort.content.array_records["arrays"])
    x, labels, sizes = everyone.clients(cohort.partitions)
    seeds = [_client_seed(seed, settings, partition) for partition in cohort.partitions]
    return model.train_many(arrays, settings, x.split(sizes), labels.split(sizes), seeds)


def _one_by_one(cohort: Cohort) -> Iterator[Answer]:
    model, everyone, seed = _method(cohort.run_config, cohort.num_partitions)
    settings, arrays = _settings(cohort.content), from_record(cohort.content.array_records["arrays"])
    for partition in cohort.partitions:
        x, labels = everyone.client(partition)
        yield model.train(arrays, settings, x, labels, _client_seed(seed, settings, partition))


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Answer with the model's metrics on this node's own samples."""
    model, everyone, _ = _method(context.run_config, context.node_config.get("num-partitions"))
    x, labels = everyone.client(_partition(context))
    metrics: dict[str, int | float] = {WEIGHT: len(labels)}
    if len(labels):
        scores = model.scores(from_record(message.content.array_records["arrays"]), model.features(x))
        metrics |= classification(labels.cpu().numpy(), scores.argmax(1).cpu().numpy())
    return Message(RecordDict({"metrics": MetricRecord({**metrics})}), reply_to=message)


def _method(run_config: Mapping[str, Any], nodes: object) -> tuple[Any, world.World, int]:
    """Return the method's model, everyone's samples and the run's seed."""
    description, everyone, model = _described(str(run_config["config"]))
    clients = everyone.federation.num_clients
    if nodes != clients:
        raise BadInput(
            f"the config describes {clients} clients but {nodes} nodes take part: set clients={nodes}"
        )
    return model, everyone, description["seed"]


def _settings(content: RecordDict) -> dict[str, Any]:
    return dict(content.config_records["config"])


def _client_seed(seed: int, settings: Mapping[str, Any], partition: int) -> int:
    server_round = int(settings.get("server-round", 0))
    return int(np.random.SeedSequence([seed, server_round, partition]).generate_state(1)[0])


def _content(arrays: Mapping[str, np.ndarray], metrics: Mapping[str, int | float]) -> RecordDict:
    content = RecordDict({"arrays": to_record(arrays)})
    if metrics:
        content["metrics"] = MetricRecord({**metrics})
    return content


def _partition(context: Context) -> int:
    return int(context.node_config["partition-id"])


@lru_cache(maxsize=4)
def _described(config: str) -> tuple[dict[str, Any], world.World, Any]:
    """Return what a config describes: itself, everyone's samples and the method's model; kept for the next message."""
    description = json.loads(config)
    source, partition, backbone = (
        instantiate(description[part]) for part in ("source", "partition", "backbone")
    )
    clients, seed, device = (description[key] for key in ("clients", "seed", "device"))
    everyone = world.build(source, partition, backbone, clients, seed, device)
    return description, everyone, instantiate(description["model"], num_classes=everyone.num_classes)

"""The accuracy of one method over a stream: after each step, and what has become of each task.

    predicted = argmax of the scores over the classes exposed so far

A model is evaluated after a step on the test rows of tasks begun and classes exposed (`ClientStream.evaluated_rows`),
and on each evaluation task by itself. The curve of these accuracies has several summaries: their average; the mean
class accuracy averaged (AMCA: Han et al., SODA10M, 2021, https://arxiv.org/abs/2106.11118); the area under it, every
step weighted by the samples that arrived in it (A_AUC: Koh et al., CLIB, ICLR 2022, https://arxiv.org/abs/2110.10031).

c classes, n test rows, s steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from fedlab.data.streams.client_stream import ClientStream
from fedlab.evaluation.classification import accuracy, accuracy_by_size, class_accuracy, classification
from fedlab.evaluation.task_matrix import TaskMatrix


class StreamEvaluation:
    """Metrics step by step; a step that is evaluated again keeps its last metrics.

    Args:
        client_stream: Client stream: who meets what when.

    Attributes:
        steps: Metrics per step: accuracy, balanced_accuracy, samples met so far, tasks (accuracy on each evaluation
            task); None where no test row is of a class that is exposed.
    """

    def __init__(self, client_stream: ClientStream):
        self.client_stream = client_stream
        self.steps: list[dict[str, Any]] = []
        self._labels: Int64[np.ndarray, " n"] = client_stream.federation.dataset.test.labels
        self._predicted: Int64[np.ndarray, " n"] = np.zeros_like(self._labels)

    def evaluate(self, step: int, scores: Float[np.ndarray, "n c"]) -> dict[str, float]:
        """Return the metrics of the scores of all test rows after a step.

        Args:
            step: Step, counted from 0: the one evaluated before, or the next.
            scores: Scores of all test rows: the larger, the likelier.

        Returns:
            dict: accuracy and balanced_accuracy; empty where there was nothing to evaluate.
        """
        exposed = self.client_stream.exposed[step]
        if not len(exposed):
            return {}
        labels, predicted = self._labels, exposed[scores[:, exposed].argmax(1)]
        here = self.client_stream.evaluated_rows(step)
        metrics = classification(labels[here], predicted[here]) if len(here) else {}
        scored = np.isin(labels, exposed)
        tasks = [
            accuracy(labels[rows], predicted[rows])
            for rows in (e.rows[scored[e.rows]] for e in self.client_stream.evaluation_tasks)
        ]
        none = {"accuracy": None, "balanced_accuracy": None, "samples": 0, "tasks": [None] * len(tasks)}
        self.steps += [none] * (step - len(self.steps))  # before anybody had a sample there was no model
        arrived = {"samples": self.client_stream.arrived[step], "tasks": [_known(task) for task in tasks]}
        self.steps[step:] = [{**none, **metrics, **arrived}]
        self._predicted = predicted
        return metrics

    @property
    def matrix(self) -> TaskMatrix:
        """What has become of each task."""
        table = [[np.nan if task is None else task for task in step["tasks"]] for step in self.steps]
        evaluation_tasks = self.client_stream.evaluation_tasks
        return TaskMatrix(
            np.array(table, dtype=np.float64).reshape(len(table), len(evaluation_tasks)),
            np.array([task.begun for task in evaluation_tasks], dtype=np.int64),
            np.array([task.ended for task in evaluation_tasks], dtype=np.int64),
        )

    def summary(self) -> dict[str, Any]:
        """Return the metrics of all steps, their summaries, and accuracy class by class after the last."""
        evaluated = [step for step in self.steps if step["accuracy"] is not None]
        if not evaluated:
            return {"steps": []}
        last, matrix = len(self.steps) - 1, self.matrix
        curve = np.array([step["accuracy"] for step in evaluated])
        arrived = np.diff([0, *(step["samples"] for step in evaluated)])
        here, c = self.client_stream.evaluated_rows(last), self.client_stream.federation.dataset.num_classes
        labels, predicted = self._labels[here], self._predicted[here]
        trained = self.client_stream.federation.dataset.train.labels[self.client_stream.seen(last)]
        counts = np.bincount(trained, minlength=c)
        by_class = class_accuracy(labels, predicted, c)
        return {
            "steps": self.steps,
            "average_accuracy": float(np.mean(curve)),
            "forgetting": _known(matrix.forgetting),
            "backward_transfer": _known(matrix.backward_transfer),
            "forward_transfer": _known(matrix.forward_transfer),
            "amca": float(np.mean([step["balanced_accuracy"] for step in evaluated])),
            "a_auc": float(curve @ arrived / arrived.sum()),
            **{f"{name}_accuracy": _known(mean) for name, mean in accuracy_by_size(by_class, counts).items()},
            "class_accuracy": [_known(value) for value in by_class],
            "class_counts": counts.tolist(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"steps": self.steps, "predicted": self._predicted}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` once returned."""
        self.steps, self._predicted = list(state["steps"]), state["predicted"]


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)

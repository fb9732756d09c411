"""Metrics over a client stream: what is evaluated when, and what the metrics come to."""

import numpy as np
import pytest

from fedlab.data.dataset import Dataset, Split
from fedlab.data.federation import Federation
from fedlab.data.streams.client_stream import ClientStream
from fedlab.data.streams.tasks import ClassIncremental, DomainIncremental, Online, SampleIncremental
from fedlab.evaluation.classification import accuracy_by_size, class_accuracy
from fedlab.evaluation.stream import StreamEvaluation

TRAIN = np.array([0, 0, 0, 1, 1, 2])
TEST = np.array([0, 0, 1, 1, 2, 2])


def client_stream(stream, calendar=None, train=TRAIN, test=TEST, clients=1):
    groups = [{"domain": np.where(np.arange(len(y)) % 2, "b", "a")} for y in (train, test)]
    splits = [Split(np.zeros((len(y), 1), np.float32), y, g) for y, g in zip((train, test), groups, strict=True)]
    dataset = Dataset("d", "tabular", *splits, ("x", "y", "z"))
    parts = tuple(np.array_split(np.arange(len(train)), clients))
    return ClientStream(Federation(dataset, parts), stream.tasks(*splits, 3, 0), calendar)


def right(labels=TEST):
    return np.eye(3)[labels]


def always(label):
    return np.tile(np.eye(3)[label], (len(TEST), 1))


def test_a_class_that_is_not_exposed_is_never_predicted():
    metrics = StreamEvaluation(client_stream(ClassIncremental(2, 1, "given"))).evaluate(0, always(2))
    assert metrics["accuracy"] == 1.0  # only class 0 is exposed, so everything is class 0


def test_steps_are_judged_on_what_is_exposed_and_tasks_apart():
    evaluation = StreamEvaluation(client_stream(ClassIncremental(2, 1, "given")))
    evaluation.evaluate(0, right())
    evaluation.evaluate(1, always(1))
    evaluation.evaluate(2, right())
    assert [step["accuracy"] for step in evaluation.steps] == [1.0, 0.5, 1.0]
    assert [step["samples"] for step in evaluation.steps] == [3, 5, 6]
    assert [step["tasks"] for step in evaluation.steps] == [[1, None, None], [0, 1, None], [1, 1, 1]]
    summary = evaluation.summary()
    assert summary["average_accuracy"] == summary["amca"] == pytest.approx(2.5 / 3)
    assert summary["a_auc"] == pytest.approx((1.0 * 3 + 0.5 * 2 + 1.0 * 1) / 6)
    assert summary["forgetting"] == 0 and summary["backward_transfer"] == 0 and summary["forward_transfer"] is None
    assert summary["class_accuracy"] == [1, 1, 1] and summary["class_counts"] == [3, 2, 1]
    assert summary["tail_accuracy"] == 1 and summary["head_accuracy"] is summary["medium_accuracy"] is None


def test_the_last_metrics_of_a_step_counts():
    evaluation = StreamEvaluation(client_stream(SampleIncremental(2)))
    evaluation.evaluate(0, right())
    evaluation.evaluate(1, always(0))
    evaluation.evaluate(1, right())
    assert [step["accuracy"] for step in evaluation.steps] == [1, 1]


def test_batches_of_a_task_are_one_evaluation_task():
    evaluation_tasks = client_stream(Online(2, ClassIncremental(2, 1, "given"))).evaluation_tasks
    assert [(task.begun, task.ended) for task in evaluation_tasks] == [(0, 1), (2, 2), (3, 3)]
    assert [TEST[task.rows].tolist() for task in evaluation_tasks] == [[0, 0], [1, 1], [2, 2]]


def test_a_domain_not_yet_met_is_judged_for_forward_transfer_alone():
    evaluation = StreamEvaluation(client_stream(DomainIncremental()))
    # Domain b has rows 1, 3, 5: class 2 is unknown in domain a, which has rows 0, 2, 4 of the training split.
    metrics = evaluation.evaluate(0, right())
    assert metrics["accuracy"] == 1.0 and evaluation.steps[0]["tasks"] == [1, 1]
    evaluation.evaluate(1, right())
    assert evaluation.summary()["forward_transfer"] == 1.0


def test_clients_at_different_phases_end_a_task_when_the_last_has_learnt_it():
    calendar = [[(0,), ()], [(1,), (0,)], [(), (1,)]]
    two = client_stream(SampleIncremental(2), calendar, clients=2)
    assert [(task.begun, task.ended) for task in two.evaluation_tasks] == [(0, 2)]  # one test split for both tasks
    two = client_stream(ClassIncremental(1, 2, "given"), calendar, clients=2)
    # The first client has class 0 alone: at step 1, when its turn is to meet the second task, nothing of it is met.
    assert [(task.begun, task.ended) for task in two.evaluation_tasks] == [(0, 1), (2, 2)]


def test_a_step_without_test_rows_has_no_mark_and_the_others_count():
    evaluation = StreamEvaluation(client_stream(ClassIncremental(2, 1, "given"), test=np.array([1, 1, 2])))
    scores = np.eye(3)[[1, 1, 2]]
    assert evaluation.evaluate(0, scores) == {}
    assert evaluation.summary() == {"steps": []}
    evaluation.evaluate(1, scores)
    evaluation.evaluate(2, scores)
    assert [step["accuracy"] for step in evaluation.steps] == [None, 1.0, 1.0]
    summary = evaluation.summary()
    assert summary["average_accuracy"] == summary["amca"] == summary["a_auc"] == 1.0


def test_before_anyone_has_a_sample_there_is_nothing_to_judge():
    late = client_stream(SampleIncremental(1), [[()], [()], [(0,)]])
    evaluation = StreamEvaluation(late)
    assert evaluation.evaluate(0, right()) == {} and evaluation.steps == []
    evaluation.evaluate(2, right())
    assert [step["accuracy"] for step in evaluation.steps] == [None, None, 1.0]
    assert evaluation.summary()["average_accuracy"] == 1.0 and evaluation.summary()["a_auc"] == 1.0


def test_a_class_of_the_test_split_alone_is_never_judged():
    evaluation = StreamEvaluation(client_stream(SampleIncremental(1), train=np.array([0, 0, 1])))
    assert evaluation.evaluate(0, right())["accuracy"] == 1.0
    assert evaluation.summary()["class_accuracy"] == [1, 1, None]


def test_a_checkpoint_keeps_the_metrics():
    one, two = (StreamEvaluation(client_stream(ClassIncremental(2, 1, "given"))) for _ in range(2))
    one.evaluate(0, right())
    two.load_state_dict(one.state_dict())
    for evaluation in (one, two):
        evaluation.evaluate(1, always(1))
    assert one.summary() == two.summary()


def test_groups_by_size_have_the_published_borders():
    counts = np.array([0, 19, 20, 100, 101, 5000])
    summary = accuracy_by_size(np.array([0.9, 0.1, 0.2, 0.4, 0.6, 0.8]), counts)
    assert summary == {"head": pytest.approx(0.7), "medium": pytest.approx(0.3), "tail": pytest.approx(0.1)}


def test_accuracy_of_each_class():
    summary = class_accuracy(np.array([0, 0, 1]), np.array([0, 1, 1]), 3)
    assert summary[:2].tolist() == [0.5, 1.0] and np.isnan(summary[2])

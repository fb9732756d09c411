"""Forgetting and transfer, by hand on three steps and three tasks."""

import numpy as np
import pytest

from fedlab.evaluation.task_matrix import TaskMatrix

NAN = np.nan


def matrix(rows, begun=(0, 1, 2), ended=(0, 1, 2)):
    return TaskMatrix(np.array(rows, dtype=float), np.array(begun), np.array(ended))


def test_forgetting_is_the_fall_from_the_best_before_the_last_step():
    table = matrix([[0.9, NAN, NAN], [1.0, 0.8, NAN], [0.4, 0.6, 1.0]])
    # Task 0: best 1.0, now 0.4; task 1: best 0.8, now 0.6; task 2 was learnt last and cannot be forgotten.
    assert table.forgetting == pytest.approx((0.6 + 0.2) / 2)
    # Since each was learnt: 0.4 - 0.9 and 0.6 - 0.8.
    assert table.backward_transfer == pytest.approx((-0.5 - 0.2) / 2)


def test_what_improves_is_transferred_and_not_forgotten():
    table = matrix([[0.5, 0.3, NAN], [0.7, 0.6, 0.2], [0.9, 0.8, 0.7]])
    assert table.forgetting == pytest.approx((-0.2 - 0.2) / 2)
    assert table.backward_transfer == pytest.approx((0.4 + 0.2) / 2)
    # Task 1 just before step 1, task 2 just before step 2.
    assert table.forward_transfer == pytest.approx((0.3 + 0.2) / 2)


def test_a_task_in_several_batches_counts_from_its_last():
    table = matrix([[0.5, NAN], [0.8, NAN], [0.6, 0.9]], begun=(0, 2), ended=(1, 2))
    assert table.forgetting == pytest.approx(0.2)
    assert table.backward_transfer == pytest.approx(0.6 - 0.8)


def test_one_step_says_nothing_of_forgetting():
    table = matrix([[0.9]], (0,), (0,))
    assert np.isnan([table.forgetting, table.backward_transfer, table.forward_transfer]).all()


def test_what_was_not_judged_is_left_out():
    table = matrix([[NAN, 0.9], [NAN, 0.5]], (0, 0), (0, 0))
    assert table.forgetting == table.backward_transfer * -1 == pytest.approx(0.4)

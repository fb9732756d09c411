from dataclasses import dataclass

import numpy as np
import pytest

from fedlab.data.federation import Federation, federate
from fedlab.data.partition import Dirichlet, Iid, Natural
from fedlab.data.sources.catalogue import CSV, Digits
from fedlab.errors import BadInput


def test_clients_hold_the_train_split_between_them():
    federation = federate(Digits(), Dirichlet(0.1), 50, 0)
    train = federation.dataset.train
    assert federation.num_clients == 50
    shares = [federation.client(k) for k in range(50)]
    assert sum(map(len, shares)) == len(train) == 1437
    assert np.isclose(sum(s.inputs.sum(dtype=np.float64) for s in shares), train.inputs.sum(dtype=np.float64))
    counts = federation.label_counts()
    assert counts.shape == (50, 10)
    assert counts.dtype == np.int64
    assert np.array_equal(counts.sum(0), np.bincount(train.labels))
    assert np.array_equal(counts[3], np.bincount(shares[3].labels, minlength=10))


@pytest.mark.parametrize("client", [-1, 3, 1000])
def test_a_client_that_does_not_exist_is_refused(client):
    with pytest.raises(BadInput, match=rf"client {client} does not exist.*\[0, 3\)"):
        federate(Digits(), Iid(), 3, 0).client(client)


def test_equal_arguments_give_the_same_federation_and_share_the_data():
    first = federate(Digits(), Iid(), 10, 0)
    assert federate(Digits(seed=0), Iid(), 10, 0) is first
    other = federate(Digits(), Iid(), 11, 0)
    assert isinstance(other, Federation)
    assert other is not first
    assert other.dataset is first.dataset


def test_an_edited_file_is_read_again(tmp_path):
    file = tmp_path / "data.csv"
    file.write_text("a,y\n" + "1,0\n2,1\n" * 5)
    source = CSV(str(file), "y")
    before = federate(source, Iid(), 2, 0)
    assert federate(source, Iid(), 2, 0) is before
    file.write_text("a,y\n" + "1,0\n2,1\n" * 6)
    assert len(federate(source, Iid(), 2, 0).dataset.train) > len(before.dataset.train)


def test_a_refusal_is_not_remembered():
    for _ in range(2):
        with pytest.raises(BadInput, match="no natural ids"):
            federate(Digits(), Natural("writer"), None, 0)


def test_a_source_of_ones_own_needs_only_load():
    @dataclass(frozen=True)
    class Firsts:
        def load(self):
            return Digits("last").load()

    assert federate(Firsts(), Iid(), 2, 0).num_clients == 2

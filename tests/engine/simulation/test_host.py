import pytest
import torch
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp

from fedlab.engine.simulation.host import load_client_app, node_of, partition_of
from fedlab.engine.simulation.local_grid import LocalGrid
from fedlab.errors import BadInput


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no.such.module:app", r"client app 'no.such.module:app' cannot be loaded \(No module named 'no'\): give"),
        ("clients.app:nothing", r"cannot be loaded \(module 'clients.app' has no attribute 'nothing'\)"),
        ("clients.app", r"client app 'clients.app' cannot be loaded"),
        (":app", r"client app ':app' cannot be loaded"),
        ("strategies.app:app", "client app 'strategies.app:app' is a ServerApp, not a flwr.clientapp.ClientApp"),
    ],
)
def test_what_is_no_client_app_is_refused(name, message):
    with pytest.raises(BadInput, match=message):
        LocalGrid(name, 2)


def test_an_app_is_loaded_by_name_or_taken_as_it_is():
    from clients.app import app

    assert load_client_app("clients.app:app") is app
    assert load_client_app(app) is app


def test_a_client_has_one_thread_and_the_caller_keeps_its_own():
    app, seen = ClientApp(), []

    @app.query()
    def threads(message: Message, context) -> Message:
        seen.append(torch.get_num_threads())
        torch.set_num_threads(3)
        raise RuntimeError

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        grid = LocalGrid(app, 2)
        assert all(r.has_error() for r in grid.send_and_receive([Message(RecordDict(), k, "query") for k in (2, 3)]))
        assert (seen, torch.get_num_threads()) == ([1, 1], 2)
    finally:
        torch.set_num_threads(before)


def test_ctrl_c_inside_a_client_stops_the_run():
    app = ClientApp()

    @app.query()
    def interrupted(message: Message, context) -> Message:
        raise KeyboardInterrupt

    with LocalGrid(app, 1) as grid, pytest.raises(KeyboardInterrupt):
        grid.send_and_receive([Message(RecordDict(), 2, "query")])


def test_nodes_and_partitions_are_one_to_one():
    assert [partition_of(node_of(partition)) for partition in range(5)] == list(range(5))
    assert node_of(0) == 2  # 1 is the SuperLink's

"""Deployments of real Flower processes give the simulation's bits, also when something breaks meanwhile."""

import json
from pathlib import Path

import pytest
import torch

from experiments.deploy.keys import make_keys
from experiments.deploy.local import simulate
from experiments.main import main
from fedlab import world
from fedlab.engine.messages.records import to_record
from fedlab.errors import BadInput
from fedlab.features.backbones import Identity
from strategies.app import digest
from tests.deployment.gated import Gated, Rows, Stripes, config
from tests.deployment.stories import Told

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]
LEASE = 65.0
"""Seconds within which Flower gives a silent node up: two heartbeats of 30, and a look every few seconds."""


@pytest.fixture(scope="module")
def everyone() -> str:
    """The head of both clients."""
    return simulate(config(2))[0]["head_sha256"]


@pytest.fixture(scope="module")
def first_alone() -> str:
    """The head of client 0's samples, solved at one place."""
    data = world.build(Rows(), Stripes(), Identity(), 2, 0, "cpu")
    weight = Gated(num_classes=3).observe(*data.client(0)).solve(1.0)
    assert weight.dtype == torch.float64
    return digest(to_record({"weight": weight.numpy()}))


def test_fedlab_deploy_local_gives_the_heads_of_the_simulation_and_leaves_nothing(deployed_here: Told) -> None:
    assert deployed_here.messages == {"code": "0", "left": ""}, deployed_here.lines
    deployed, simulated, *_, verdict = deployed_here.lines[-4:]
    assert deployed.removeprefix("deployed").strip() == simulated.removeprefix("simulated").strip()
    assert deployed_here.result["head_sha256"] in deployed
    assert verdict == "the same head, to the bit"
    assert deployed_here.result["clients"] == 4
    assert any("4 of 4 clients answered" in line for line in deployed_here.lines)


def test_an_interrupted_deployment_stops_what_it_started(interrupted: Told) -> None:
    assert interrupted.messages == {"code": "2", "left": ""}, interrupted.lines
    assert interrupted.lines[-1].startswith("fedlab: interrupted")
    assert not any("Traceback" in line for line in interrupted.lines)


def test_a_killed_node_is_reported_and_the_round_ends_over_the_rest(node_killed: Told, first_alone: str) -> None:
    (reason,) = node_killed.result["faults"]["failed"].values()
    (client,) = node_killed.result["faults"]["failed"]
    assert "Node Unavailable" in reason
    assert any(f"client {client} is not in the model" in line for line in node_killed.lines)
    assert node_killed.result["head_sha256"] == first_alone
    assert node_killed.seconds["until the client was given up"] < LEASE


def test_a_killed_node_is_let_in_again_with_its_key(node_killed: Told) -> None:
    assert node_killed.online == 2


def test_a_node_without_a_registered_key_is_refused(node_killed: Told) -> None:
    said = node_killed.messages["unknown key"]
    assert "supernode1 was refused" in said and "strangers/node1 is not registered" in said
    assert "fedlab deploy register" in said


@pytest.mark.parametrize(
    ("wrong", "why"),
    [("another authority", "unable to get local issuer certificate"), ("another name", "Hostname mismatch")],
)
def test_a_certificate_that_does_not_match_is_one_clear_message(node_killed: Told, wrong: str, why: str) -> None:
    said = node_killed.messages[wrong]
    assert "\n" not in said
    assert "does not match" in said and why in said
    assert "fedlab deploy keys FOLDER --host" in said


def test_a_run_outlives_a_restart_of_the_superlink(superlink_restarted: Told, everyone: str) -> None:
    assert "no answer" in superlink_restarted.messages["while it is away"]
    assert superlink_restarted.result["head_sha256"] == everyone
    assert superlink_restarted.result["faults"]["failed"] == {}


def test_the_health_checks_of_the_containers_are_content(superlink_restarted: Told) -> None:
    assert superlink_restarted.messages["healthy"] == "superlink supernode0 supernode1"


def test_head_and_worker_of_the_containers_make_one_ray_cluster(ray_cluster: Told) -> None:
    assert ray_cluster.messages == {"nodes": "['127.0.0.2', '127.0.0.3']", "left": "[]"}


def test_a_cut_cable_loses_one_host_of_three_and_the_run_finishes(cable_cut: Told, first_alone: str) -> None:
    (reason,) = cable_cut.result["faults"]["failed"].values()
    assert "Node Unavailable" in reason
    assert cable_cut.result["head_sha256"] == first_alone
    assert cable_cut.seconds["until the client was given up"] < LEASE
    assert cable_cut.online == 2  # the cable is mended


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["local", "methods=[afl,fedavg]"], "methods=['afl', 'fedavg']: a deployment runs one method"),
        (["local", "methods=[centralised]"], "a deployment runs one method that has a strategy"),
        (["local", "clients=null"], "clients=null: give the number of SuperNodes"),
        (["local", "clients=-1"], "clients=-1: give the number of SuperNodes, at least 1"),
        (["local", "experiment=fdkt_tiny"], "clients=null: give the number of SuperNodes"),
        (["local", "client=4"], "unknown key 'client'"),
        (["probe", "nowhere"], "address 'nowhere' is no HOST:PORT"),
        (["probe", "no host:80"], "address 'no host:80' is no HOST:PORT"),
        (["probe", "no..host:80"], "address 'no..host:80' is no HOST:PORT"),
        (["probe", "127.0.0.1:1"], "no answer from 127.0.0.1:1"),
        (["probe", "127.0.0.1:1", "--root-certificates", "none.crt"], "none.crt is no authority's certificate"),
    ],
)
def test_bad_input_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deploy", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and "\n" not in error.strip()


@pytest.mark.parametrize("host", ["", "a b", "köln", "https://a"])
def test_a_host_that_is_no_name_makes_no_keys(host: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is neither an address nor an ASCII name"):
        make_keys(tmp_path / "keys", [host], 1)
    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize("name", ["ca.crt", "ca.key", "node0"])
@pytest.mark.parametrize("damage", ["cut short", "another's"])
def test_secrets_that_are_damaged_are_named_and_nothing_is_signed(name: str, damage: str, tmp_path: Path) -> None:
    keys, other = (make_keys(tmp_path / folder, ["localhost"], 1) for folder in ("own", "other"))
    secret, signed = keys.folder / name, keys.certificate.read_bytes()
    whole = (other.folder / name).read_bytes()
    secret.write_bytes(whole[:40] if damage == "cut short" else whole)
    keys.node(0).with_suffix(".pub").unlink()
    if (name, damage) == ("node0", "another's"):  # a private key says which public one is its own
        make_keys(keys.folder, ["localhost"], 1)
        assert keys.public()[0].read_bytes() == other.public()[0].read_bytes()
        return
    with pytest.raises(BadInput, match=str(keys.folder)):
        make_keys(keys.folder, ["localhost"], 1)
    assert name == "node0" or keys.certificate.read_bytes() == signed


def test_a_file_named_like_a_key_is_not_counted(tmp_path: Path) -> None:
    keys = make_keys(tmp_path, ["localhost"], 11)
    (tmp_path / "node-old.pub").touch()
    assert [path.name for path in keys.public()] == [f"node{number}.pub" for number in range(11)]


def test_the_config_of_a_story_is_what_an_experiment_describes() -> None:
    from experiments.config.compose import compose
    from experiments.runner.compare import describe

    described = describe(compose(["clients=2", "methods=[afl]"]), "afl")
    assert set(config(2)) <= set(json.loads(json.dumps(described)))

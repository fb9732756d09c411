"""`fedlab unlearn`: a client or its samples leave a run directory, with a certificate, or nothing changes."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from omegaconf import OmegaConf
from safetensors import safe_open
from safetensors.numpy import load_file

from experiments.main import main
from experiments.runner.deletion import chosen, read_rows
from experiments.studies.unlearning import Without
from fedlab.data.partition import Iid
from fedlab.engine.messages.records import digest_of
from fedlab.errors import BadInput

SMALL = ["clients=20", "features.expansion.width=32", "partition=iid"]
KEEP = "methods.{}.strategy.keep_clients=clients"


def run(path, *overrides):
    assert main(["run", f"hydra.run.dir={path}", *SMALL, *overrides]) == 0
    return json.loads((path / "results.json").read_text())


def head_of(path):
    return digest_of(load_file(path / "model.safetensors"))


def everything(path):
    files = (file for file in sorted(path.rglob("*")) if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def certificates(path):
    return [json.loads(line) for line in (path / "deletions.jsonl").read_text().splitlines()]


def rows_of(client, number):
    """Rows of the training split that a client of these runs holds."""
    from fedlab.data.federation import federate
    from fedlab.data.sources.catalogue import Digits

    return federate(Digits(split="stratified", seed=0), Iid(), 20, 0).parts[client][:number].tolist()


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    path = tmp_path_factory.mktemp("ended") / "run"
    return SimpleNamespace(path=path, results=run(path, "experiment=unlearn_afl", "study.leave=0.1"))


@pytest.fixture
def copy(ended, tmp_path):
    """The run, without a client more or less than it ended with."""
    return shutil.copytree(ended.path, tmp_path / "copy")


def test_the_experiment_shows_that_a_deletion_is_the_federation_without(ended):
    study = ended.results["study"]
    before, deleted, again = study["rows"]
    assert study["equal"] and deleted["head_sha256"] == again["head_sha256"] != before["head_sha256"]
    assert deleted["head_sha256"] == study["certificate"]["head_after"] == head_of(ended.path)
    assert deleted["accuracy"] == again["accuracy"] and deleted["samples"] == again["samples"] < before["samples"]
    assert len(study["clients"]) == 2
    assert study["times_as_fast"] == pytest.approx(again["seconds"] / deleted["seconds"])
    assert set(ended.results["methods"]) == {"afl", "afl without them"}
    assert certificates(ended.path) == [study["certificate"]]


def test_who_left_holds_nothing_and_the_others_what_they_held():
    labels = np.arange(30) % 3
    parts, left = Iid().split(labels, {}, 4, 0), Without(Iid(), [1]).split(labels, {}, 4, 0)
    assert hash(Without(Iid(), [1])) and [len(part) for part in left] == [
        len(parts[0]),
        0,
        len(parts[2]),
        len(parts[3]),
    ]
    assert all(np.array_equal(a, b) for k, (a, b) in enumerate(zip(parts, left, strict=True)) if k != 1)


def test_clients_samples_and_the_rest_of_a_client_leave(copy, ended, tmp_path, capsys):
    stay = [k for k in range(20) if k not in ended.results["study"]["clients"]]
    first, second, third = stay[:3]
    assert main(["unlearn", str(copy), "--client", str(first), str(second), "--verify"]) == 0
    assert "equal, difference 0.0e+00" in capsys.readouterr().out
    rows = tmp_path / "rows.txt"
    rows.write_text("\n".join(map(str, rows_of(third, 5))))
    assert main(["unlearn", str(copy), "--client", str(third), "--samples", str(rows), "--verify", "data"]) == 0
    with_some = head_of(copy)
    assert main(["unlearn", str(copy), "--client", str(third)]) == 0
    assert main(["unlearn", str(copy), "--verify", "data"]) == 0
    told = certificates(copy)
    assert [one["clients"] for one in told[1:]] == [[first, second], [third], [third]]
    assert told[2]["rows"] == sorted(rows_of(third, 5)) and told[2]["samples"] == 5 and told[2]["retrained"]["equal"]
    assert told[2]["head_after"] == with_some and told[3]["head_after"] == head_of(copy)
    assert len({one["head_after"] for one in told}) == 4
    with safe_open(copy / "model.safetensors", "numpy") as model:
        assert model.metadata() == {"method": "afl"}
    assert json.loads((copy / "results.json").read_text()) == ended.results


REFUSED = {
    "unknown": (["--client", "20"], "client 20 was never added"),
    "deleted before": (["--client", "{gone}"], "client {gone} was deleted before"),
    "a sample of another": (["--client", "{stay}", "--samples", "{strange}"], "is not among the"),
    "a sample of a deleted client": (["--client", "{gone}", "--samples", "{rows}"], "client {gone} was deleted"),
    "no such split row": (["--client", "{stay}", "--samples", "{huge}"], "row 99999 of the training split is not"),
    "no rows": (["--client", "{stay}", "--samples", "{words}"], "names no rows"),
    "samples of two": (["--client", "{stay}", "{gone}", "--samples", "{rows}"], "needs the one client"),
    "no such method": (["--method", "afk"], "unknown method 'afk': known are afl"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_and_no_byte_changes(case, copy, ended, tmp_path, capsys):
    gone = ended.results["study"]["clients"][0]
    stay, other = [k for k in range(20) if k not in ended.results["study"]["clients"]][:2]
    names = {"gone": gone, "stay": stay}
    contents = {"strange": rows_of(other, 1), "rows": rows_of(gone, 2), "huge": [99999], "words": "one"}
    for name, content in contents.items():
        names[name] = tmp_path / f"{name}.txt"
        names[name].write_text(content if isinstance(content, str) else json.dumps(content))
    before = everything(copy)
    words, message = REFUSED[case]
    assert main(["unlearn", str(copy), *(word.format(**names) for word in words)]) == 2
    assert message.format(**names) in capsys.readouterr().err
    assert everything(copy) == before


def test_what_is_no_finished_run_is_refused(copy, tmp_path, capsys):
    assert main(["unlearn", str(tmp_path), "--client", "1"]) == 2
    assert "not a run directory, or its run did not end" in capsys.readouterr().err
    shutil.rmtree(copy / "clients")
    assert main(["unlearn", str(copy), "--client", "1"]) == 2
    assert "nothing can be deleted where nothing was kept" in capsys.readouterr().err


def test_what_another_run_has_kept_is_refused(copy, capsys):
    results = json.loads((copy / "results.json").read_text())
    results["methods"]["afl"]["head_sha256"] = "0" * 64
    (copy / "results.json").write_text(json.dumps(results))
    assert main(["unlearn", str(copy), "--client", "1"]) == 2
    assert "it was kept by another run" in capsys.readouterr().err


def test_what_a_kill_cut_off_after_the_commit_is_finished_by_the_next_call(copy, ended):
    stay = next(k for k in range(20) if k not in ended.results["study"]["clients"])
    before = {name: (copy / name).read_bytes() for name in ("model.safetensors", "deletions.jsonl")}
    assert main(["unlearn", str(copy), "--client", str(stay)]) == 0
    after = {name: (copy / name).read_bytes() for name in before}
    for name, data in before.items():
        assert data != after[name]
        (copy / name).write_bytes(data)
    assert main(["unlearn", str(copy)]) == 0
    assert {name: (copy / name).read_bytes() for name in before} == after


def test_lost_files_come_again_from_the_clients_data(copy, ended, capsys):
    stay = next(k for k in range(20) if k not in ended.results["study"]["clients"])
    (copy / "clients" / f"{stay + 2}.safetensors").unlink()
    assert main(["unlearn", str(copy), "--client", str(stay)]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert main(["unlearn", str(copy), "--client", str(stay), "--resend", "--verify", "data"]) == 0


def test_privacy_that_was_spent_is_not_refunded(copy, ended, capsys):
    results = json.loads((copy / "results.json").read_text())
    results["methods"]["dp_afl"] = results["methods"]["afl"] | {"privacy": {"epsilon": 1.0}}
    (copy / "results.json").write_text(json.dumps(results))
    stay = next(k for k in range(20) if k not in ended.results["study"]["clients"])
    assert main(["unlearn", str(copy), "--client", str(stay)]) == 0
    assert "the privacy ledger is unchanged" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("method", ["dsal", "air"])
def test_a_client_and_samples_leave_a_stream(method, tmp_path):
    path, rows = tmp_path / "run", tmp_path / "rows.json"
    stream = ["stream=class_incremental", f"methods=[{method}]", KEEP.format(method), "ridge=0.1"]
    run(path, *stream)
    rows.write_text(json.dumps(rows_of(7, 20)))  # of several phases
    assert main(["unlearn", str(path), "--client", "7", "--samples", str(rows), "--verify", "data"]) == 0
    assert main(["unlearn", str(path), "--client", "3", "7", "--verify", "data"]) == 0
    assert certificates(path)[0]["samples"] == 20


@pytest.mark.parametrize(
    ("name", "method", "reason"),
    [
        ("afl", {"strategy": {"_target_": "strategies.afl.AFL", "keep_clients": None}}, "kept no client's"),
        ("secagg_afl", {"strategy": {"_target_": "strategies.secagg.SecAgg"}}, "under secure aggregation"),
        ("dp_afl", {"strategy": {"_target_": "strategies.dp_afl.DPAFL"}}, "carries noise and stays released"),
        ("air_two_rounds", {"strategy": {"_target_": "strategies.air.TwoRounds"}}, "weigh anew"),
        ("fedavg", {"strategy": {"_target_": "flwr.serverapp.strategy.FedAvg"}}, "is no sum of"),
        ("centralised", {"strategy": None}, "no clients"),
    ],
)
def test_a_method_that_cannot_says_why(name, method, reason):
    with pytest.raises(BadInput, match=reason):
        chosen(OmegaConf.create({"methods": {name: method}}), {})


def test_rows_are_whole_numbers(tmp_path):
    path = tmp_path / "rows"
    for text, rows in (("3\n1\n", [3, 1]), ("[3, 1]", [3, 1]), ("", [])):
        path.write_text(text)
        assert read_rows(path) == rows
    for text in ("1.5", "[1.5]", "[true]", "[1,", "a"):
        path.write_text(text)
        with pytest.raises(BadInput, match="whole numbers"):
            read_rows(path)
    with pytest.raises(BadInput, match="cannot be read"):
        read_rows(tmp_path / "none")

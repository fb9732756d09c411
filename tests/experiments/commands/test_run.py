"""`fedlab run`: the run directory's contract, one head on every engine, one message for what goes wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import fedlab
from experiments.config.compose import compose, configuration
from experiments.main import main
from experiments.messages import message
from fedlab.errors import BadInput, ClientFailed

SMALL = ["features.expansion.width=64", "rounds=2", "cohort.minimum=5"]
METHOD_KEYS = {
    *("strategy", "seed", "clients", "rounds", "accuracy", "metrics", "statistics_sha256", "head_sha256"),
    *("bytes_up_per_client", "bytes_down_per_client", "seconds", "peak_rss_bytes", "privacy", "faults"),
}


def run(directory: Path, *overrides: str) -> dict:
    assert main(["run", *SMALL, f"hydra.run.dir={directory}", *overrides]) == 0
    return json.loads((directory / "results.json").read_text())


@pytest.fixture(scope="module")
def everything(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "all"
    run(directory, "clients=20")
    return directory


def test_a_run_leaves_the_whole_contract(everything):
    results = json.loads((everything / "results.json").read_text())
    assert set(results) >= METHOD_KEYS | {"experiment", "methods"}
    assert set(results["seconds"]) == {"setup", "features", "train", "aggregate", "evaluate", "total"}
    assert list(results["methods"]) == ["afl", "fedavg", "fedprox", "centralised"]
    for name, method in results["methods"].items():
        assert set(method) >= METHOD_KEYS, name
        assert 0 <= method["accuracy"] <= 1
    assert results["methods"]["afl"]["head_sha256"] == results["methods"]["centralised"]["head_sha256"]
    assert results["methods"]["afl"]["bytes_up_per_client"] > 0
    for name in (
        "manifest.json",
        "model.safetensors",
        "figures/accuracy.png",
        "figures/bytes.png",
        "figures/clients.png",
    ):
        assert (everything / name).stat().st_size > 0, name
    assert yaml.safe_load((everything / "config.yaml").read_text())["clients"] == 20
    assert "clients=20" in yaml.safe_load((everything / "overrides.yaml").read_text())
    events = [json.loads(line) for line in (everything / "metrics.jsonl").read_text().splitlines()]
    rounds = [e["round"] for e in events if e["event"] == "round" and e["method"] == "fedavg"]
    assert rounds == [0, 1, 2]


def test_a_model_is_saved_with_the_bits_that_were_evaluated(everything):
    from safetensors.numpy import load_file

    from fedlab.engine.messages.records import to_record
    from strategies.app import digest

    results = json.loads((everything / "results.json").read_text())
    assert digest(to_record(load_file(everything / "model.safetensors"))) == results["head_sha256"]


def test_the_same_command_gives_the_same_bits(everything, tmp_path):
    again = run(tmp_path / "again", "clients=20")["methods"]
    before = json.loads((everything / "results.json").read_text())["methods"]
    for name in before:
        assert again[name]["head_sha256"] == before[name]["head_sha256"], name


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_the_head_does_not_depend_on_the_engine(everything, tmp_path, workers):
    heads = json.loads((everything / "results.json").read_text())["methods"]
    ray = run(
        tmp_path / "ray", "clients=20", "engine=ray", f"engine.num_workers={workers}", "methods=[afl,fedavg]",
    )["methods"]  # fmt: skip
    assert ray["afl"]["head_sha256"] == heads["afl"]["head_sha256"]
    # Averages are added in message order on one thread per client: also gradient methods keep their bits.
    assert ray["fedavg"]["head_sha256"] == heads["fedavg"]["head_sha256"]


@pytest.mark.slow
def test_every_method_runs_beside_the_others(tmp_path):
    names = {path.stem for path in (configuration() / "methods").glob("*.yaml")}
    names = sorted(names - {"fdkt"})  # which reads texts, and runs in tests/strategies/test_fdkt.py
    methods = run(tmp_path / "all", "clients=6", f"methods=[{','.join(names)}]")["methods"]
    assert sorted(methods) == names
    strategies = {name: compose([f"methods=[{name}]"]).methods[name].strategy for name in names}
    averaging = [n for n, s in strategies.items() if s and s._target_.startswith("flwr.") and n != "fedprox"]
    sent = {name: methods[name]["bytes_down_per_client"] for name in averaging}  # fedprox tells clients more
    assert len(set(sent.values())) == 1 and len(sent) > 10, sent


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["methods=[centralised]", "ridge=0.0"], "singular"),
        (["methods=[centralised]", "features.limit=1e-9"], "clipped"),
        (["methods=[afl]", "features.limit=1e99"], "rounded away"),
        (["methods=[fedadam]", "rounds=1", "methods.fedadam.strategy.eta=1e300"], "diverged"),
    ],
)
def test_a_head_that_cannot_be_trusted_is_said(tmp_path, capsys, overrides, said):
    run(tmp_path, "clients=3", *overrides)
    assert said in capsys.readouterr().out
    events = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert any(said in event["message"] for event in events if event["event"] == "warning")


def test_a_client_whose_training_diverges_is_named(tmp_path, capsys):
    diverging = ["methods=[fedavg]", "gradient.learning_rate=1e38", "clients=3", "rounds=2"]
    assert main(["run", f"hydra.run.dir={tmp_path}", "features.expansion.width=64", *diverging]) == 2
    said = capsys.readouterr().err
    assert "its reply was refused" in said and "holds NaN or infinite numbers" in said and "local training" in said


@pytest.mark.slow
@pytest.mark.parametrize("split", ["stratified", "last"])
def test_methods_named_alone_run_alone(tmp_path, split):
    results = run(tmp_path / "one", "methods=[afl]", "clients=3", f"source.split={split}")
    assert list(results["methods"]) == ["afl"]


@pytest.mark.slow
def test_more_clients_than_samples_is_legal(tmp_path):
    results = run(tmp_path / "many", "methods=[afl,fedavg,centralised]", "clients=1600", "partition=iid")
    assert results["clients"] == 1600
    assert results["methods"]["afl"]["head_sha256"] == results["methods"]["centralised"]["head_sha256"]


@pytest.mark.slow
def test_a_sweep_runs_every_job_and_summarises(tmp_path, capsys):
    jobs = ["clients=2,5", "partition.alpha=.1,1", "methods=[afl]", f"hydra.sweep.dir={tmp_path}"]
    assert main(["run", "-m", *SMALL, *jobs]) == 0
    heads = {json.loads(p.read_text())["head_sha256"] for p in tmp_path.glob("*/results.json")}
    assert len(list(tmp_path.glob("*/results.json"))) == 4 and len(heads) == 1
    printed = capsys.readouterr().out
    assert "partition.alpha" in printed and printed.count(next(iter(heads))[:7]) >= 4


def test_a_sweep_survives_one_bad_job(tmp_path, capsys):
    assert main(["run", "-m", *SMALL, "clients=0,4", "methods=[afl]", f"hydra.sweep.dir={tmp_path}"]) == 2
    assert len(list(tmp_path.glob("*/results.json"))) == 1
    assert "clients=0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["clients=0"], "clients=0"),
        (["partition.alpha=0"], "alpha=0"),
        (["seed=-1"], "seed=-1"),
        (["ridge=-1"], "ridge=-1"),
        (["ridge=much"], "ridge=much"),
        (["tolerate=1"], "tolerate=1"),
        (["+faults.loss=3"], "faults.loss=3 is no fault: choose them by name"),
        (["timeout=0"], "timeout=0"),
        (["rounds=0"], "rounds=0"),
        (["device=warp"], "warp"),
        (["methods=[]"], "methods=[]"),
        (["features.limit=-0.5", "methods=[afl]"], "limit=-0.5"),
        (["features.expansion.width=0", "methods=[afl]"], "width=0 must be a whole number >= 1"),
        (["gradient.learning_rate=-0.1", "methods=[fedavg]", "clients=5"], "learning_rate=-0.1"),
        (["source=csv", "source.path=/nowhere.csv", "source.label=y"], "/nowhere.csv"),
        (["engine=ray", "engine.num_workers=0", "methods=[afl]"], "num_workers=0"),
        (["methods=null"], "null is no choice"),
        (["hydra/launcher=jolib"], "pip install -c constraints.txt -e '.[sweep]'"),
        (["experiment=afl_dummy", "study.clients=[]"], "has no cell: say study.samples=10000"),
        (["experiment=afl_dummy", "study.clients=[2,0]"], "study.clients=0"),
        (["experiment=afl_dummy", "study.samples=many"], "study.samples='many' must be a whole number"),
        (["experiment=afl_dummy", "study.samples=5"], "study.samples=5 is below study.features=512"),
        (["experiment=afl_dummy", "study.ridge=0"], "study.ridge=0"),
        (["experiment=afl_invariance", "methods=[fedavg]"], "lacks afl"),
        (["experiment=afl_invariance", "study.clients=[]"], "has no cell"),
        (["experiment=afl_invariance", "study.alpha=[flat]"], "study.alpha=flat"),
        (["cohort.fraction=0", "methods=[fedavg]"], "cohort.fraction=0.0 must be a finite number in (0, 1]"),
        (["cohort.fraction=some"], "cohort.fraction=some"),
        (["cohort.minimum=0"], "cohort.minimum=0"),
        (["analytic.bits=few"], "analytic.bits=few is not an integer"),
        (["source=csv", "source.path=null", "source.label=y"], "source.path=None is not a text"),
        (["source=csv", "source.path=a.csv", "source.label=3"], "as a text it is written source.label=\"'3'\""),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(tmp_path, capsys, overrides, said):
    assert main(["run", f"hydra.run.dir={tmp_path / 'run'}", *SMALL, *overrides]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert error.count("fedlab:") == 1


def test_an_unwritable_run_directory_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["run", "methods=[afl]", f"hydra.run.dir={tmp_path / 'file' / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / "file") in error and "hydra.run.dir=FOLDER" in error


@pytest.mark.slow
def test_a_run_prints_where_letters_are_few_and_where_nobody_listens(tmp_path):
    command = [sys.executable, "-m", "experiments.main", "run", *SMALL, "methods=[afl]", "clients=2"]
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [*command, f"hydra.run.dir={tmp_path / 'ascii'}"], env=ascii_only, capture_output=True, check=False
    )
    assert done.returncode == 0 and b"afl" in done.stdout and not done.stderr
    closed = ["sh", "-c", '"$@" >&-', "sh", *command, f"hydra.run.dir={tmp_path / 'closed'}"]
    done = subprocess.run(closed, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 0 and not done.stderr
    assert (tmp_path / "closed" / "results.json").exists()


@pytest.mark.parametrize(("words", "said"), [(["rnu"], "did you mean 'run'?"), (["data", "show", "digit"], "digits")])
def test_unknown_words_are_met_with_the_known_ones(capsys, words, said):
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("run", "report", "data", "--debug"))


def test_help_fits_a_narrow_terminal_and_loads_nothing_heavy(tmp_path):
    code = (
        "import sys; from experiments.main import main\n"
        "for words in ([], ['privacy', '--help'], ['unlearn', '--help'], ['deploy', 'local', '--help']): main(words)\n"
        "print(*[name for name in ('torch', 'numpy', 'hydra', 'rich', 'flwr') if name in sys.modules])"
    )
    env = os.environ | {"COLUMNS": "40"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    *printed, heavy = done.stdout.splitlines()
    assert len(printed) > 50 and max(map(len, printed)) <= 40 and heavy == ""


def test_the_version_is_told(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.split()[-1] == fedlab.__version__


@pytest.mark.parametrize(
    ("line", "choices"),
    [
        ("fedlab r", ["run", "report"]),
        ("fedlab run partition.alph", ["partition.alpha="]),
        ("fedlab run clients=3 experiment=fdkt_t", ["experiment=fdkt_tiny"]),
        ("fedlab data show dig", ["digits"]),
        ("fedlab flower --engine r", ["ray"]),
    ],
)
def test_words_and_values_are_completed(line, choices, monkeypatch, capsys):
    words = line.split()
    monkeypatch.setenv("_FEDLAB_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    assert main([]) == 0
    assert capsys.readouterr().out.split() == [f"plain,{choice}" for choice in choices]


@pytest.mark.parametrize("words", [["--completion", "bash"], ["run", "-sc", "install=bash"]])
def test_the_script_for_bash_is_printed(words, capsys):
    assert main(words) == 0
    script = capsys.readouterr().out
    assert "_FEDLAB_COMPLETE=bash_complete" in script and "nospace -F _fedlab_completion fedlab" in script


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("FEDLAB_DEBUG", "0")  # and so restored afterwards
    with pytest.raises(BadInput):
        main(["run", "clients=0", "--debug"])


def test_ctrl_c_ends_clean_and_leaves_readable_events(tmp_path):
    command = [sys.executable, "-m", "experiments.main", "run", "methods=[fedavg]", f"hydra.run.dir={tmp_path / 'run'}"]
    process = subprocess.Popen(
        [*command, "rounds=100000"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    events = tmp_path / "run" / "metrics.jsonl"
    try:
        deadline = time.monotonic() + 60
        while not (events.exists() and events.read_text().count('"round"') > 3):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 2
    assert "interrupted" in error and "Traceback" not in error
    assert all(json.loads(line) for line in events.read_text().splitlines())


def test_a_client_that_refused_its_input_is_quoted_and_any_other_exception_is_shown_whole():
    refused = ClientFailed("17", "Traceback ...\nfedlab.errors.BadInput: label 9 lies outside 0..4: relabel")
    assert message(refused) == "client 17: label 9 lies outside 0..4: relabel"
    broken = ClientFailed("17", 'Traceback ...\n  File "x.py", line 3\nKeyError: 1', others=["3", "4"])
    assert "x.py" in message(broken) and "KeyError" in message(broken) and "2 more" in message(broken)


def test_simulate_takes_the_same_names(tmp_path):
    result = fedlab.simulate(
        "afl_digits", clients=5, methods=["afl"], partition="iid", features__expansion__width=64, directory=tmp_path
    )
    assert result["afl"]["clients"] == 5 and "afl" in str(result.table())
    assert result.directory == tmp_path
    assert "<table" in result._repr_html_()
    with pytest.raises(BadInput, match="did you mean 'clients'"):
        fedlab.simulate("afl_digits", cliens=5)

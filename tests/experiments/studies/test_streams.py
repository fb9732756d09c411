"""`fedlab run` over a stream: what it leaves behind, how it goes on, and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hydra.utils import instantiate

from experiments.config.compose import compose, configuration
from experiments.main import main
from experiments.runner.compare import describe
from fedlab.data.dataset import Split
from fedlab.data.sources.catalogue import SOURCES
from fedlab.engine.persistence.checkpoint import Checkpoints
from fedlab.report.result import Result

SMALL = ["experiment=cil_digits", "features.expansion.width=32", "clients=5", "stream.phases=3", "rounds=2"]
ROWS = 12_000
STREAMED = {
    *("steps", "average_accuracy", "forgetting", "backward_transfer", "forward_transfer", "amca", "a_auc"),
    *("head_accuracy", "medium_accuracy", "tail_accuracy", "class_accuracy", "class_counts"),
}


def run(directory, *overrides: str) -> dict:
    assert main(["run", *SMALL, f"hydra.run.dir={directory}", *overrides]) == 0
    return json.loads((directory / "results.json").read_text())


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "all"
    run(directory)
    return directory


def test_a_stream_leaves_its_marks_and_its_figures(everything):
    results = json.loads((everything / "results.json").read_text())
    for name, method in results["methods"].items():
        metrics = method["metrics"]
        assert set(metrics) >= STREAMED, name
        assert [set(step) for step in metrics["steps"]] == [{"accuracy", "balanced_accuracy", "samples", "tasks"}] * 4
        assert metrics["steps"][-1]["accuracy"] == method["accuracy"], name
        assert metrics["steps"][-1]["samples"] == sum(metrics["class_counts"]) == 1437
        assert [len(step["tasks"]) for step in metrics["steps"]] == [4] * 4
    for figure in ("steps", "tasks", "classes", "clients"):
        assert (everything / "figures" / f"{figure}.png").stat().st_size > 0
    assert not (everything / "figures" / "accuracy.png").exists()


def test_a_table_of_a_stream_says_what_was_forgotten(everything):
    table = str(Result.load(everything).table(width=200))
    assert all(word in table for word in ("average", "forgetting", "balanced"))
    assert Result.load(everything).kinds == ["steps", "tasks", "classes", "clients"]


def test_every_round_is_told_with_its_accuracy_over_exposed_classes(everything):
    events = [json.loads(line) for line in (everything / "metrics.jsonl").read_text().splitlines()]
    told = [event for event in events if event["event"] == "round" and event["method"] == "acil"]
    assert [event["round"] for event in told] == [1, 2, 3, 4]
    steps = json.loads((everything / "results.json").read_text())["methods"]["acil"]["metrics"]["steps"]
    assert [event["accuracy"] for event in told] == [step["accuracy"] for step in steps]
    (note,) = [event["message"] for event in events if event["event"] == "note"]
    assert note.startswith("sums class by class: 10 classes by 32 features will take")


class Stopped(BaseException):
    """As Ctrl-C is: no error of the run's."""


@pytest.mark.slow
def test_a_stream_that_was_stopped_goes_on_to_the_same_marks(tmp_path, monkeypatch):
    methods = ["acil", "dsal", "air", "air_two_rounds", "aefocl", "replay"]
    whole = run(tmp_path / "whole", f"methods=[{','.join(methods)}]")["methods"]
    after = Checkpoints.after

    def stop(self, done, state):
        kept = after(self, done, state)
        if done == 2:
            raise Stopped
        return kept

    for method, expected in whole.items():
        directory = tmp_path / method
        with monkeypatch.context() as patched, pytest.raises(Stopped):
            patched.setattr(Checkpoints, "after", stop)
            run(directory, f"methods=[{method}]")
        assert main(["run", f"resume={directory}"]) == 0
        found = json.loads((directory / "results.json").read_text())["methods"][method]
        for key in ("head_sha256", "statistics_sha256", "metrics", "bytes_up_per_client"):
            assert found[key] == expected[key], (method, key)


def test_a_task_that_nobody_has_a_sample_of_changes_nothing(tmp_path):
    # All join after the first step: at first there is nothing to learn, and no head.
    methods = "methods=[acil,dsal,air,air_two_rounds,aefocl,replay]"
    late = run(tmp_path / "late", methods, "availability.late=1.0")["methods"]
    for name, method in late.items():
        steps = method["metrics"]["steps"]
        assert len(steps) == 4 and steps[0]["accuracy"] is None and steps[0]["samples"] == 0, name
        assert steps[-1]["samples"] == 1437


def test_phases_past_the_last_sample_change_nothing(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "few.npz", x=rng.random((8, 4), dtype=np.float32), y=np.arange(8) % 2)
    few = ["source=numpy", f"source.path={tmp_path / 'few.npz'}", "source.test=0.5", "clients=2"]
    few += ["stream=sample_incremental", "methods=[acil,dsal,gkeal,air,air_two_rounds,aefocl]"]
    cut = [run(tmp_path / str(n), *few, f"stream.phases={n}")["methods"] for n in (4, 7)]
    for name in cut[0]:
        assert cut[0][name]["head_sha256"] == cut[1][name]["head_sha256"], name
        assert [step["samples"] for step in cut[1][name]["metrics"]["steps"]] == [1, 2, 3, 4, 4, 4, 4]


def test_what_both_apps_need_of_a_stream_is_in_its_description():
    # The apps get one JSON text: what they need of the stream is in it.
    cfg = compose(SMALL)
    told = json.loads(json.dumps(describe(cfg, "replay")))
    assert told["stream"]["_target_"].endswith("ClassIncremental") and told["buffer"] == 20
    assert told["availability"]["lag"] == 0 and told["rounds"] == 2


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["methods=[afl]"], "AFL learns once, and the stream brings samples in 4 steps: choose a continual"),
        (["methods=[acil]", "methods.acil.rounds=2"], "rounds=2: Continual takes 1 to learn what there is"),
        (["methods=[air_two_rounds]", "methods.air_two_rounds.rounds=1"], "TwoRounds takes 2"),
        (["stream.base=eleven"], "stream.base=eleven is not a number"),
        (["methods=[dsal]", "ridge=gcv"], "methods.dsal.strategy.memory.ridge=gcv is not a number"),
        (["stream=domain_incremental"], "domain"),
        (["methods=[dsal]", "methods.dsal.strategy.memory.ratio=-1.0"], "ratio=-1.0 must be a finite number >= 0"),
        (
            ["methods=[air_two_rounds]", "methods.air_two_rounds.strategy.tau=-1.0"],
            "tau=-1.0 must be a finite number in [0, 2]",
        ),
        (
            ["methods=[aefocl]", "methods.aefocl.strategy.memory.spread=-1.0"],
            "spread=-1.0 must be a finite number >= 0",
        ),
        (["methods=[air]", "methods.air.client.memory=1000"], "use form=two_rounds"),
        (["methods=[acil]", "features.expansion.width=3000000"], "lower the expansion's width"),
        (["methods=[replay]", "methods.replay.buffer=-1"], "methods.replay.buffer=-1 must be a whole number"),
        (["~stream", "availability.lag=1"], "there is no stream"),
        (["availability.lag=-1"], "lag=-1 must be a whole number >= 0"),
    ],
)
def test_what_cannot_be_is_said_in_one_message(tmp_path, capsys, overrides, said):
    small = [
        word
        for word in SMALL
        if not (word.startswith("stream.") and any(o == "~stream" or o.startswith("stream=") for o in overrides))
    ]
    assert main(["run", *small, f"hydra.run.dir={tmp_path}", *overrides]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_every_experiment_over_a_stream_composes():
    names = [path.stem for path in (configuration() / "experiment").glob("*.yaml")]
    names = [name for name in names if name.startswith(("cil_", "gcil_", "ocl_"))]
    assert len(names) >= 9
    rng = np.random.default_rng(0)
    hub = {"cil_cifar100": 100, "cil_imagenet": 1000}
    for name in names:
        cfg = compose([f"experiment={name}"])
        source = cfg.source["_target_"].rpartition(".")[2]
        c = hub.get(name) or next(one.classes for one in SOURCES.values() if one.source.__name__ == source)
        labels, ids = np.arange(ROWS) % c, rng.permutation(np.arange(ROWS) % 4).astype(str)
        split = Split(np.zeros((ROWS, 1), np.float32), labels, {"domain": ids, "vendor": ids})
        tasks = instantiate(cfg.stream).tasks(split, split, c, 0)
        assert len(tasks) > 1 and sum(map(len, tasks.rows)) == ROWS, name
        assert cfg.name == name and cfg.stream is not None and cfg.ridge == 0.1


def test_the_phases_study_ends_with_one_head(tmp_path, capsys):
    small = ["experiment=cil_500", "features.expansion.width=32", "clients=5", "study.phases=[1,3,20]"]
    assert main(["run", *small, f"hydra.run.dir={tmp_path}"]) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["study"]["heads"] == 1 and [row["phases"] for row in found["study"]["rows"]] == [1, 3, 20]
    assert (tmp_path / "figures" / "phases.png").exists()
    capsys.readouterr()
    assert main(["run", *small, "mode=float64", f"hydra.run.dir={tmp_path / 'float'}"]) == 0
    found = json.loads((tmp_path / "float" / "results.json").read_text())
    assert found["study"]["heads"] > 1  # it would notice
    for wrong in ("study.phases=[]", "study.phases=[0]", "methods=[acil,gacl]"):
        assert main(["run", *small, wrong, f"hydra.run.dir={tmp_path / 'wrong'}"]) == 2

"""Every configuration composes, and a typo is named with what would have fitted."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
from hydra.utils import get_method, instantiate

from experiments.config.compose import compose, configuration
from experiments.config.schema import check
from experiments.runner.compare import describe
from fedlab.errors import BadInput
from fedlab.llm.tuning.small_model import SmallModel
from fedlab.llm.tuning.training import Training


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (configuration() / group).glob("*.yaml"))


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_composes_and_names_a_task_that_exists(experiment):
    cfg = compose([f"experiment={experiment}"])
    assert cfg.name == experiment
    assert callable(get_method(cfg.task))
    check(cfg)


@pytest.mark.parametrize("method", options("methods"))
def test_every_method_is_described_by_plain_values(method):
    cfg = compose([f"methods=[{method}]", "clients=7"])
    check(cfg)
    described = describe(cfg, method)
    assert json.loads(json.dumps(described)) == described
    if described["strategy"] and "min_train_nodes" in described["strategy"]:
        assert described["strategy"]["min_train_nodes"] == 7, "a cohort never waits for clients that do not exist"


@pytest.mark.parametrize("small", options("small_model"))
def test_every_small_model_can_teach_fdkt(small):
    said = ["small_model.id=owner/name"] if small == "huggingface" else []
    cfg = compose(["experiment=fdkt", f"small_model={small}", "small_model.weight=0.7", *said])
    described = describe(cfg, "fdkt")["client"]["small_model"]
    model = instantiate(described)
    assert isinstance(model, SmallModel) and model.weight == 0.7 and model.judge.weight == 0.7
    if small != "head":
        assert model.training == Training() and model.device == cfg.device
        assert described["training"].keys() - {"_target_"} == {one.name for one in fields(Training)}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("cliens=3", "unknown key 'cliens': known here are analytic, availability, checkpoint"),
        ("partition.alpa=1", "unknown key 'partition.alpa': known here are alpha; did you mean 'alpha'?"),
        ("methods.afl.strategy.rigde=1", "did you mean 'ridge'?"),
        ("engine=loco", "unknown engine 'loco': known are local, ray; did you mean 'local'?"),
        ("small_model=minlm", "unknown small_model 'minlm': known are head, huggingface, minilm"),
        ("methods=[afll]", "unknown methods 'afll'"),
        ("experiment=afl_digit", "did you mean 'afl_digits'?"),
        ("mode=exactly", "expected one of [exact, float64]"),
        ("clients=many", "could not be converted to Integer"),
        ("seed=1.5", "could not be converted to Integer"),
    ],
)
def test_a_typo_is_named_with_what_would_have_fitted(override, said):
    with pytest.raises(BadInput) as caught:
        compose([override])
    assert said in str(caught.value)


def test_the_configuration_lies_beside_the_packages():
    assert configuration() == Path(__file__).parents[3] / "conf"

"""A default is stated once: what a config takes from a signature is what the class has, whoever looks."""

from __future__ import annotations

import inspect

import pytest
import yaml
from hydra.utils import get_object
from omegaconf import OmegaConf

from experiments.config.compose import compose, configuration
from experiments.config.documented import documented, sentences
from experiments.config.schema import DOCUMENTED
from experiments.config.signatures import defaults_of, docstring_of, fill
from fedlab.errors import BadInput

FILES = [path for path in sorted(configuration().rglob("*.yaml")) if path.parent.name != "experiment"]


def nodes(tree):
    """Yield every node of a config file that names a class."""
    if isinstance(tree, dict):
        if isinstance(tree.get("_target_"), str):
            yield tree
        for item in tree.values():
            yield from nodes(item)


TARGETS = sorted(
    {
        node["_target_"]
        for file in FILES
        for node in nodes(yaml.safe_load(file.read_text()))
        if node["_target_"].split(".")[0] in ("fedlab", "clients", "strategies")
    }
)


@pytest.mark.parametrize("target", TARGETS)
def test_the_source_says_what_the_class_has(target):
    signature = inspect.signature(get_object(target)).parameters.values()
    has = {one.name: one.default for one in signature if one.default is not one.empty}
    for name, value in defaults_of(target).items():
        assert value == (list(has[name]) if isinstance(has[name], tuple) else has[name]), name
    plain = (int, float, str, bool, type(None))
    assert {name for name, value in has.items() if isinstance(value, plain)} <= set(defaults_of(target))


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_no_config_states_a_default_again(file):
    for node in nodes(yaml.safe_load(file.read_text())):
        if node["_target_"] in TARGETS:
            defaults = defaults_of(node["_target_"])
            again = [key for key, value in node.items() if key in defaults and repr(value) == repr(defaults[key])]
            assert not again, f"say _signature_ instead of {again}"


def test_what_is_filled_in_can_be_overridden_and_follows_the_class_that_was_chosen():
    cfg = compose(["stream=class_incremental", "methods=[gkeal,acil]", "methods.gkeal.client.expansion.high=2"])
    assert cfg.stream == {
        "_target_": "fedlab.data.streams.tasks.ClassIncremental", "phases": 5, "base": 0.5, "order": "shuffled",
    }  # fmt: skip
    assert cfg.methods.gkeal.client.expansion.high == 2 and cfg.methods.gkeal.client.bits == cfg.analytic.bits
    with pytest.raises(BadInput, match=r"unknown key 'stream\.phase': known here are .*did you mean 'phases'"):
        compose(["stream=class_incremental", "stream.phase=3"])


def test_a_part_that_is_like_another_follows_it_setting_by_setting():
    changes = ["methods=[dp_secagg_afl]", "privacy.epsilon=3", "privacy.gram_share=0.5"]
    guarantee = compose(changes).methods.dp_secagg_afl.client.learner.guarantee
    assert (guarantee.epsilon, guarantee.trust, guarantee.gram_share) == (3, "distributed", None)
    own = "methods.dp_secagg_afl.client.learner.guarantee.epsilon=5"
    assert compose([*changes, own]).methods.dp_secagg_afl.client.learner.guarantee.epsilon == 5


def test_a_setting_that_its_class_does_not_have_is_named():
    cfg = OmegaConf.create({"_target_": "fedlab.data.partition.Shards", "_signature_": ["per_person"]})
    with pytest.raises(BadInput, match=r"Shards has no default of 'per_person'"):
        fill(cfg)


def test_settings_stand_beside_their_documentation():
    text = documented(compose(["stream=class_incremental"]), DOCUMENTED)
    said = sentences(docstring_of("fedlab.data.streams.tasks.ClassIncremental"))
    assert f"  phases: 5  # {said['phases']}\n" in text and "seed: 0  # " in text
    assert yaml.safe_load(text)["analytic"]["bits"] == 12

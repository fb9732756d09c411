"""A setting of another type than its constructor says is refused, by the key that overrides it."""

from __future__ import annotations

import pytest

from experiments.config.compose import compose
from experiments.config.schema import check
from experiments.config.type_checks import check_types
from fedlab.errors import BadInput
from tests.experiments.config.test_compose import options


@pytest.mark.parametrize("group", ["source", "partition", "features", "network", "engine"])
def test_every_option_fits_its_constructors(group):
    needed = {
        "csv": ["source.path=a", "source.label=b"],
        "numpy": ["source.path=a"],
        "image_folder": ["source.path=a"],
        "natural": ["partition.by=a"],
        "huggingface": ["source.path=a"] if group == "source" else ["features.backbone.id=a"],
    }
    for option in options(group):
        check(compose([f"{group}={option}", *needed.get(option, [])]))


def test_one_value_stands_for_a_list_of_one():
    check(compose(["source=csv", "source.path=a", "source.label=b", "source.columns=c"]))
    check(compose(["source=csv", "source.path=a", "source.label=b", "source.columns=[c,d]"]))


def test_the_shortest_key_is_named():
    cfg = compose(["gradient.epochs=true", "methods=[fedavg,fedprox]"])
    with pytest.raises(BadInput, match=r"^gradient\.epochs=True is not an integer$"):
        check(cfg)


def test_what_a_setting_may_be_instead_is_listed():
    wanted = r"^part\.test=\[1\] is not a text or a number$"
    with pytest.raises(BadInput, match=wanted):
        check_types({"part": {"_target_": "fedlab.data.sources.CSV", "path": "a", "label": "b", "test": [1]}})


def test_a_class_that_cannot_be_imported_is_left_to_whoever_calls_it():
    check_types({"part": {"_target_": "nowhere.Nothing", "size": "big"}, "others": [{"_target_": "os.nothing"}]})

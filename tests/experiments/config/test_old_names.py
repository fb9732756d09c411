"""An old name is told the new one; what is written is read in new names, and stays what it is in them."""

from __future__ import annotations

from importlib import import_module

import pytest

from experiments.config.compose import compose
from experiments.config.old_names import KEYS, LEARNERS, MODULES, new_key, new_override, new_target, translated
from experiments.main import main
from fedlab.errors import BadInput

RENAMED = {
    "attendance.late=.5": "attendance is now availability: say availability.late",
    "methods.afl.model.bits=8": "model is now client: say methods.afl.client",
    "methods.fdkt.strategy.winners=.5": "winners is now keep_fraction",
    "methods.fdkt.strategy.more=9": "more is now augment_per_class",
    "methods.fdkt.strategy.sieve.judge=chat": "sieve is now text_filter",
    "methods.fdkt.strategy.writer.each=1": "each is now texts_per_prompt",
    "methods.fdkt.model.written=3": "say methods.fdkt.client.samples_per_class",
    "llm.patience=3": "patience is now retry_for: say llm.retry_for",
}


@pytest.mark.parametrize("override", RENAMED)
def test_an_override_of_before_is_told_the_new_name(override):
    with pytest.raises(BadInput) as caught:
        compose(["experiment=fdkt_tiny", "methods=[fdkt,afl]", override])
    assert RENAMED[override] in str(caught.value)


def test_a_path_of_before_is_told_the_new_one(tmp_path, capsys):
    assert main(["run", f"hydra.run.dir={tmp_path}", "task=experiments.compare.compare"]) == 2
    assert "experiments.compare.compare is now experiments.runner.compare.compare" in capsys.readouterr().err
    assert main(["run", f"hydra.run.dir={tmp_path}", "+methods.afl.model.bits=3"]) == 2
    assert "model is now client: say methods.afl.client" in capsys.readouterr().err


@pytest.mark.parametrize("module", [*MODULES.values(), "fedlab.analytic"])
def test_every_new_module_is_there_and_keeps_its_name(module):
    import_module(module)
    assert new_target(f"{module}.Anything") == f"{module}.Anything"


def test_learners_are_where_they_are_said_to_be():
    home = import_module("fedlab.analytic")
    for name in LEARNERS.split():
        assert hasattr(home, name) and new_target(f"fedlab.stats.{name}") == f"fedlab.analytic.{name}"
    assert new_target("fedlab.stats.GramStats") == "fedlab.stats.GramStats"
    assert new_target("fedlab.stats.per_class:OneClass") == "fedlab.stats.one_class:OneClass"
    assert new_target("fedlab.privacy.promise:Promise") == "fedlab.privacy.accounting.budget:PrivacyBudget"


def test_keys_are_translated_below_new_keys_and_new_ones_stay():
    assert new_key("methods.fdkt.model.written") == "methods.fdkt.client.samples_per_class"
    assert new_key("methods.fdkt.strategy.writer.llm.patience") == "methods.fdkt.strategy.writer.llm.retry_for"
    assert new_key("small_model.training.patience") == "small_model.training.patience"
    assert new_key("source.each") == "source.each"
    assert new_override("~attendance.lag") == "~availability.lag"
    variants = {"study": {"variants": {"v": ["methods.fdkt.base=null", "methods.fdkt.strategy.more=0"]}}}
    assert translated(variants)["study"]["variants"]["v"] == ["methods.fdkt.strategy.augment_per_class=0"]
    new = translated({"methods": {"fdkt": {"model": {"written": 1}}}, "attendance": {"lag": 0}, "llm": None})
    assert new == {"methods": {"fdkt": {"client": {"samples_per_class": 1}}}, "availability": {"lag": 0}, "llm": None}
    assert translated(new) == new and len(KEYS) == len(RENAMED)

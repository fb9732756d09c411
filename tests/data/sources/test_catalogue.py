import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from experiments.config.signatures import fill
from experiments.main import main
from fedlab.data import partition
from fedlab.data.sources.catalogue import SOURCES, Digits, listing
from fedlab.data.sources.packages import is_cached
from fedlab.data.sources.published import REVIEWS
from fedlab.errors import BadInput

CONF = Path(__file__).parents[3] / "conf"
FILES = sorted([*(CONF / "source").glob("*.yaml"), *(CONF / "partition").glob("*.yaml")])
GIVEN = {"path": "somewhere", "label": "y", "by": "domain"}


def test_digits_hold_a_stratified_fifth_out():
    data = Digits().load()
    assert (len(data.train), len(data.test), data.num_classes) == (1437, 360, 10)
    assert data.train.inputs.shape == (1437, 64)
    assert data.train.inputs.dtype == np.float32
    assert (data.train.inputs.min(), data.train.inputs.max()) == (0, 1)
    every = np.bincount(data.train.labels) + np.bincount(data.test.labels)
    assert np.abs(np.bincount(data.test.labels) - 0.2 * every).max() < 1.5
    assert Digits(seed=1).load().fingerprint != data.fingerprint == Digits(seed=0).load().fingerprint


def test_the_last_fifth_of_the_digits_is_the_last_fifth():
    from sklearn.datasets import load_digits

    data = Digits(split="last").load()
    assert np.array_equal(data.test.labels, load_digits().target[1437:])
    assert Digits(split="last", seed=5).load().fingerprint == data.fingerprint
    with pytest.raises(BadInput, match="unknown split 'first': known are last, stratified"):
        Digits(split="first").load()


@pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parent.name}/{f.stem}")
def test_every_configuration_builds_what_it_names(file):
    config = OmegaConf.merge({"seed": 3}, {"it": OmegaConf.load(file)})
    for key in list(config.it):
        if OmegaConf.is_missing(config.it, key):
            config.it[key] = GIVEN[key]
    fill(config)
    built = instantiate(config.it)
    hash(built)
    if file.parent.name == "source":
        assert type(built) is SOURCES[file.stem].source
        assert built.seed == 3
        # Said twice, a default must be the same twice.
        for field in dataclasses.fields(built):
            if field.default is not dataclasses.MISSING and field.name != "seed":
                assert getattr(built, field.name) == field.default, field.name
    else:
        assert type(built).__name__.lower() == file.stem


def test_there_is_a_configuration_for_every_source_and_partition():
    kinds = {"iid", "dirichlet", "shards", "quantity", "natural"}
    assert {f.stem for f in FILES} == set(SOURCES) | kinds
    assert all(hasattr(partition, kind.capitalize()) for kind in kinds)


def test_listings_agree_with_the_data():
    data = Digits().load()
    entry = listing("digits")
    assert (len(data.train) + len(data.test), data.num_classes, data.kind) == (entry.samples, entry.classes, entry.kind)
    with pytest.raises(BadInput, match="did you mean 'digits'"):
        listing("digit")


def test_importing_sources_is_light():
    heavy = ["torch", "datasets", "flwr_datasets", "pandas", "sklearn", "PIL", "rdata"]
    code = (
        "import sys, fedlab.data.sources.catalogue, fedlab.data.federation, fedlab.data.partition;"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_lists_every_source_and_its_licence(cache, capsys):
    assert main(["data", "list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in SOURCES)
    assert "BSD-3-Clause" in printed
    assert "fetch" in printed


def test_the_command_shows_what_is_here_and_how_to_get_what_is_not(tiny_reviews, capsys):
    assert main(["data", "show", "reviews"]) == 0
    shown = capsys.readouterr().out
    assert "negative 16, positive 16" in shown
    assert "natural: domain" in shown
    assert main(["data", "show", "emoji"]) == 0
    assert "fedlab data fetch emoji" in capsys.readouterr().out


def test_the_command_fetches_nothing_that_is_here(tiny_reviews, capsys):
    assert is_cached(REVIEWS)
    assert main(["data", "fetch", "digits", "reviews"]) == 0
    printed = capsys.readouterr().out
    assert "nothing to fetch" in printed
    assert "already in" in printed


def test_the_command_refuses_unknown_names_with_one_line(capsys):
    assert main(["data", "fetch", "reviws", "digits"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("fedlab: unknown dataset 'reviws'")
    assert captured.err.count("\n") == 1

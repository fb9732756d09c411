"""Tables that were published as files of R."""

import hashlib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import rdata

from fedlab.data.sources import tables
from fedlab.data.sources.catalogue import SOURCES
from fedlab.data.sources.packages import is_cached, keep
from fedlab.data.sources.tables import MLBENCH, TABLES, Letter, Satellite, Shuttle
from fedlab.errors import BadInput
from tests.data.conftest import tar

SOURCE = {"letter": Letter, "shuttle": Shuttle, "satellite": Satellite}
WIDTH = {"letter": 16, "shuttle": 9, "satellite": 36}


@pytest.fixture
def tiny(cache, tmp_path, monkeypatch):
    """The published format with 20 rows a table, the last a quarter over the first; the digests are their own."""
    files = {}
    for name, table in TABLES.items():
        d = WIDTH[name]
        low, high = (np.resize(ends, d).astype(float) for ends in (table.low, table.high))
        rows = low + np.linspace(0, 1, 20)[:, None] * (high - low)
        frame = pd.DataFrame(rows, columns=[f"x{i}" for i in range(d)])
        frame[table.label] = pd.Categorical(["second", "first"] * 10, ["second", "first"])
        path = tmp_path / table.file
        rdata.write_rda(path, {path.stem: frame})
        content = path.read_bytes()
        files[f"./usr/lib/R/site-library/mlbench/data/{table.file}"] = content
        own = replace(table, sha256=hashlib.sha256(content).hexdigest(), train=15)
        monkeypatch.setitem(TABLES, name, own)
    return keep(MLBENCH, tar(tmp_path / "r.tar", files))


@pytest.mark.parametrize("name", SOURCE)
def test_a_table_is_read_from_the_published_format(name, tiny):
    data = SOURCE[name]().load()
    assert (data.name, data.kind, len(data.train), len(data.test)) == (name, "tabular", 15, 5)
    assert data.classes == ("second", "first")  # a factor's order, not the alphabet's
    assert data.train.labels.tolist() == [0, 1] * 7 + [0]
    both = np.concatenate([data.train.inputs, data.test.inputs])
    assert both.shape == (20, WIDTH[name]) and both.dtype == np.float32
    assert (both[0] == 0).all() and (both[-1] == 1).all() and (np.diff(both, axis=0) > 0).all()
    assert SOURCE[name](seed=1).load().fingerprint == data.fingerprint


@pytest.mark.parametrize("name", SOURCE)
def test_a_fifth_of_each_class_can_be_held_out_by_seed(name, tiny):
    one, two = (SOURCE[name](split="stratified", seed=seed).load() for seed in (0, 1))
    assert np.bincount(one.test.labels).tolist() == [2, 2]
    assert one.fingerprint != two.fingerprint


def test_small_readings_are_told_apart_beside_large_ones():
    table = TABLES["shuttle"]
    rows = np.tile(np.array(table.low, dtype=float), (3, 1))
    rows[:, 5] = (-30, 0, 30)
    low, zero, high = table.scaled(rows)[:, 5]
    assert zero - low == pytest.approx(high - zero, abs=2e-6) and high - zero > 0.15


def test_another_version_of_the_package_is_refused(tiny, monkeypatch):
    monkeypatch.setitem(TABLES, "letter", replace(TABLES["letter"], sha256="0" * 64))
    with pytest.raises(BadInput, match=r"LetterRecognition\.rda with SHA-256 .*known is 000000000000"):
        Letter().load()
    monkeypatch.setitem(TABLES, "letter", replace(TABLES["letter"], file="Lettre.rda"))
    with pytest.raises(BadInput, match="your distribution has another version"):
        Letter().load()


def test_what_is_not_here_says_how_to_fetch_it(cache):
    with pytest.raises(BadInput, match=r"fedlab data fetch shuttle` \(1 MB, licence GPL-2"):
        Shuttle().load()
    with pytest.raises(BadInput, match="unknown split 'last'"):
        Letter(split="last").load()


@pytest.mark.parametrize(
    ("name", "sizes", "counts"),
    [
        ("letter", (16_000, 4_000), {"A": 789, "T": 796, "Z": 734}),
        (
            "shuttle",
            (43_500, 14_500),
            {
                "Rad.Flow": 45_586,
                "Fpv.Close": 50,
                "Fpv.Open": 171,
                "High": 8903,
                "Bypass": 3267,
                "Bpv.Close": 10,
                "Bpv.Open": 13,
            },
        ),
        ("satellite", (4435, 2000), {"red soil": 1533, "damp grey soil": 626}),
    ],
)
def test_the_real_tables_have_the_counted_samples(name, sizes, counts):
    if not is_cached(MLBENCH):
        pytest.skip(f"{name} is not in the cache: fedlab data fetch {name}")
    data, entry = tables._load(name, "published", 0), SOURCES[name]
    assert (len(data.train), len(data.test)) == sizes
    assert (sum(sizes), data.num_classes) == (entry.samples, entry.classes)
    held = np.bincount(np.concatenate([data.train.labels, data.test.labels]))
    assert counts.items() <= dict(zip(data.classes, held.tolist(), strict=True)).items()
    every = np.concatenate([data.train.inputs, data.test.inputs])
    assert every.min() == 0 and every.max() == 1
    assert len(np.unique(data.train.labels)) == len(np.unique(data.test.labels)) == data.num_classes

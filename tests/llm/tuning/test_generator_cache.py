import json
import logging

import pytest

from fedlab.llm.tuning import generator_cache as module
from fedlab.llm.tuning.generator_cache import recalled
from fedlab.llm.tuning.sampling import Written


@pytest.fixture
def writer(tmp_path, monkeypatch):
    """A generator that counts how often it writes."""
    monkeypatch.setenv("FEDLAB_CACHE", str(tmp_path))
    calls = []

    def write():
        calls.append(1)
        return Written(["a | good"], [f"text {len(calls)}"], 2)

    return write, calls


def test_what_was_written_is_not_written_again(writer):
    write, calls = writer
    first = recalled(write, 1, ["a | good"], 50)
    assert recalled(write, 1, ["a | good"], 50) == first and len(calls) == 1
    for other in ((2, ["a | good"], 50), (1, ["a | bad"], 50), (1, ["a | good"], 51)):
        recalled(write, *other)
    assert len(calls) == 4


def test_a_damaged_file_is_written_again(writer, tmp_path, caplog):
    write, calls = writer
    recalled(write, 1)
    (path,) = (tmp_path / "written").glob("*.json")
    for damage in (b'{"codes": [', b"[]", json.dumps({"texts": []}).encode()):
        path.write_bytes(damage)
        with caplog.at_level(logging.WARNING, "fedlab"):
            recalled(write, 1)
        assert "cannot be read" in caplog.text
        caplog.clear()
    assert len(calls) == 4 and recalled(write, 1).texts == ["text 4"]


def test_a_cache_that_cannot_be_written_costs_time_and_nothing_else(writer, tmp_path, monkeypatch, caplog):
    write, _ = writer
    (tmp_path / "file").touch()
    monkeypatch.setattr(module, "cache_folder", lambda: tmp_path / "file")
    with caplog.at_level(logging.WARNING, "fedlab"):
        assert recalled(write, 1).texts == ["text 1"]
    assert "not kept" in caplog.text

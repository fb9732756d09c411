"""A run read back: whole, torn, or missing."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys

import pytest
from rich.console import Console

from fedlab.errors import BadInput
from fedlab.report import Result


def test_a_run_reads_back(run):
    result = Result.load(run)
    assert result.accuracy == 0.98
    assert list(result.methods) == ["centralised", "afl", "fedavg"]
    assert result["fedavg"]["rounds"] == 4
    assert len(result.events) == 6
    assert "fedavg" in str(result.table()) and repr(result.table()) == str(result.table())
    assert "methods" not in repr(result), "a result's repr is a line, not its whole content"


@pytest.mark.parametrize("width", [20, 80, 200])
def test_rich_prints_the_table_fitted_and_as_it_is(run, results, width):
    results["methods"]["[red]x"] = results["methods"].pop("fedavg")
    (run / "results.json").write_text(json.dumps(results))
    screen = Console(file=io.StringIO(), width=width)
    table = Result.load(run).table(width)
    screen.print(table)
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert [line.rstrip() for line in shown.splitlines()] == str(table).splitlines()
    assert "[red]x" in shown


def test_an_unknown_method_or_figure_is_named_with_the_known(run):
    result = Result.load(run)
    with pytest.raises(BadInput, match="did you mean 'fedavg'"):
        result["fedavgg"]
    with pytest.raises(BadInput, match=r"unknown figure 'acuracy'.*did you mean 'accuracy'"):
        result.plot("acuracy")


def test_a_missing_run_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"results\.json: not a run directory"):
        Result.load(tmp_path / "nothing")


@pytest.mark.parametrize("content", ["", '{"accuracy": 0.9', "\x00" * 10])
def test_torn_results_are_named(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(BadInput, match="not whole"):
        Result.load(tmp_path)


def test_results_of_another_shape_or_kind_are_named(tmp_path):
    (tmp_path / "results.json").write_text("[1]")
    with pytest.raises(BadInput, match="list"):
        Result.load(tmp_path)
    (tmp_path / "results.json").write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match="not whole"):
        Result.load(tmp_path)
    (tmp_path / "results.json").unlink()
    (tmp_path / "results.json").mkdir()
    with pytest.raises(BadInput, match="cannot read"):
        Result.load(tmp_path)


def test_a_torn_last_event_is_passed_over(run):
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'{"event": "round", "accuracy": 0.')
    assert len(Result.load(run).events) == 6
    (run / "metrics.jsonl").unlink()
    assert Result.load(run).events == []


def test_an_event_with_a_line_separator_in_its_text_is_one_event(run):
    with (run / "metrics.jsonl").open("ab") as file:
        file.write('{"event": "warning", "message": "a\u2028b"}\n'.encode())
    assert Result.load(run).events[-1]["message"] == "a\u2028b"


def test_an_unmeasured_accuracy_is_nan(run, results):
    (run / "results.json").write_text(json.dumps(results | {"accuracy": None}))
    assert math.isnan(Result.load(run).accuracy)


@pytest.mark.parametrize("kind", ["accuracy", "bytes", "clients"])
def test_plots_are_saved_where_asked(run, kind):
    Result.load(run).plot(kind, path=run / "figures" / f"{kind}.png")
    assert (run / "figures" / f"{kind}.png").read_bytes().startswith(b"\x89PNG")


def test_plots_without_their_data_say_what_to_run(run):
    result = Result.load(run)
    with pytest.raises(BadInput, match="afl_invariance"):
        result.plot("invariance")
    (run / "label_counts.json").unlink()
    with pytest.raises(BadInput, match=r"label_counts\.json"):
        result.plot("clients")
    (run / "file").write_text("")
    with pytest.raises(BadInput, match="cannot write"):
        result.plot(path=run / "file" / "a.png")


def test_the_notebook_shows_table_and_figure_in_one_piece(run, results):
    results["methods"]["<script>"] = results["methods"].pop("fedavg")
    (run / "results.json").write_text(json.dumps(results))
    page = Result.load(run)._repr_html_()
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "data:image/png;base64,iVBOR" in page and "http" not in page


def test_the_notebook_shows_a_run_without_methods(tmp_path):
    (tmp_path / "results.json").write_text('{"study": {"kind": "dummy", "rows": [{"clients": 2, "error": 0}]}}')
    page = Result.load(tmp_path)._repr_html_()
    assert "<td>2</td>" in page and "<img" not in page


def test_reading_a_run_loads_neither_torch_nor_matplotlib():
    code = "import sys, fedlab.report; print({'torch', 'flwr', 'ray', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

"""Tables: the cells say what results.json holds, at every width."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from fedlab.report.result import TextTable
from fedlab.report.table import method_cells, study_cells, sweep_cells, sweep_table, table_text
from fedlab.report.template import html_table
from fedlab.report.words import human_bytes, percent, points, seconds, short_hash


def printed(table, width=200) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_cells(results):
    headers, rows = method_cells(results)
    assert headers == [
        "method", "accuracy", "vs centralised", "rounds", "up/client", "down/client", "seconds", "head",
    ]  # fmt: skip
    assert rows[0] == ["centralised", "98.00 %", "—", "0", "0 B", "0 B", "2.2", "0123456789ab"]
    assert rows[2] == ["fedavg", "91.00 %", "-7.00", "4", "1.5 MB", "80 kB", "2.2", "ffffffffffff"]


def test_the_table_shows_every_cell(results):
    headers, rows = method_cells(results)
    text = table_text(results, 200)
    assert all(cell in text for cell in [*headers, *(cell for row in rows for cell in row)])


def test_without_a_yardstick_there_is_no_difference(results):
    del results["methods"]["centralised"]
    assert [row[2] for row in method_cells(results)[1]] == ["—", "—"]


def test_a_run_of_one_method_is_a_table_of_one_row(results):
    results["methods"] = {}
    assert [row[:2] for row in method_cells(results)[1]] == [["afl", "98.00 %"]]


def test_what_was_not_measured_is_a_dash():
    rows = method_cells({"methods": {"afl": {"accuracy": None}}})[1]
    assert rows == [["afl", "—", "—", "—", "—", "—", "—", "—"]]


def test_an_empty_run_says_so():
    assert table_text({}) == "no method finished\n"


@pytest.mark.parametrize("width", [1, 5, 20, 40, 60, 80, 200])
def test_no_line_is_wider_than_the_terminal(results, width):
    lines = table_text(results, width).splitlines()
    assert max(map(len, lines)) <= width


def test_eighty_columns_hold_every_column(results):
    text = table_text(results, 80)
    assert "0123456789ab" in text and "80 kB" in text and "-7.00" in text


def test_twenty_columns_keep_method_and_accuracy(results):
    lines = table_text(results, 20).splitlines()
    assert any("centralised" in line and "98.00" in line for line in lines)


def test_names_are_text_not_markup(results):
    results["methods"] = {"[red]afl[/]": results["methods"]["afl"]}
    assert "[red]afl[/]" in table_text(results)


def test_html_is_escaped():
    assert html_table(["<a>"], [["<script>&"]]).count("<script>") == 0
    assert "&lt;script&gt;&amp;" in html_table(["<a>"], [["<script>&"]])


def test_study_rows():
    rows = [{"clients": 2, "error": 5e-14, "seconds": 1.0}, {"clients": 10, "error": 0.0, "pairwise_error": None}]
    headers, cells = study_cells({"study": {"kind": "dummy", "rows": rows}}) or ([], [])
    assert headers == ["clients", "error", "seconds", "pairwise error"]
    assert cells == [["2", "5.0e-14", "1.0", "—"], ["10", "0.0e+00", "—", "—"]]
    assert study_cells({"study": None}) is None
    assert "5.0e-14" in table_text({"study": {"kind": "dummy", "rows": rows}})


def test_a_sweep_shows_the_overrides_that_vary():
    outcome = {"method": "afl", "accuracy": 0.5, "head_sha256": "a" * 64, "seconds": {"total": 3.0}}
    jobs = [{"clients": 10, "seed": 0}, {"clients": 100, "seed": 0}]
    expected = (
        ["clients", "method", "accuracy", "head", "seconds"],
        [[str(job["clients"]), "afl", "50.00 %", "a" * 12, "3.0"] for job in jobs],
    )
    assert sweep_cells([outcome | job for job in jobs]) == expected
    assert sweep_cells([outcome | {"overrides": job} for job in jobs]) == expected
    texts = [[f"{key}={value}" for key, value in job.items()] for job in jobs]
    assert sweep_cells([outcome | {"overrides": text} for text in texts]) == expected
    assert "100" in printed(sweep_table([outcome | job for job in jobs]))


def test_an_empty_sweep_is_an_empty_table():
    assert sweep_cells([])[1] == []
    assert "method" in printed(sweep_table([]))


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (999.9, "1 kB"), (1000, "1 kB"), (1_234_567, "1.23 MB"), (999_999, "1 MB"),
     (5e15, "5000 TB"), (None, "—"), (float("nan"), "—")],
)  # fmt: skip
def test_human_bytes(size, text):
    assert human_bytes(size) == text


def test_words():
    assert percent(1) == "100.00 %"
    assert percent(float("nan")) == "—"
    assert points(0.96, 0.97) == "-1.00"
    assert points(0.97 - 1e-9, 0.97) == "+0.00"
    assert points(0.97, None) == "—"
    assert seconds({"total": 0.0123}) == "0.012"
    assert seconds({}) == seconds(None) == "—"
    assert short_hash(None) == "—"


def test_printed_directly_on_a_narrow_console_nothing_is_cut(results):
    text = "".join(printed(TextTable(results), 80).split())
    assert "…" not in text
    assert text.count("89ab") == 2, "a cell without room wraps"


def test_a_closed_form_head_says_how_well_posed_it_was():
    solved = {"accuracy": 0.9, "metrics": {"condition": 12345.0, "ridge": 1.0}}
    results = {"methods": {"afl": solved, "fedavg": {"accuracy": 0.8}, "centralised": solved}}
    assert table_text(results).endswith("afl, centralised: condition 1.2e+04 at ridge 1\n")

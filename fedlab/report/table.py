"""Tables of a run: one set of cells, shown in a terminal or in a page.

The cells are made once, as text; the terminal's table and the page's are two dresses for them, so they cannot
disagree. A terminal too narrow for all columns loses the least important ones, never the method or its
accuracy.
"""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedlab.report.words import NOTHING, count, human_bytes, percent, points, seconds, short_hash

YARDSTICK = "centralised"

Cells = tuple[list[str], list[list[str]]]  # the headers, the rows

# What a narrow terminal gives up, first to last.
_EXPENDABLE = (
    *("random", "tpr at 1", "cap", "advantage", "chance", "low", "high"),
    *("down/client", "seconds", "rounds", "head", "up/client", "balanced", "vs " + YARDSTICK),
    *("forgetting", "average", "lowest gain", "highest gain", "seeds"),
)
# Keys of a sweep's row that are outcomes; every other key is an override.
_OUTCOMES = {"overrides", "method", "accuracy", "average", "balanced", "head_sha256", "seconds"}


def methods_of(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The methods of a run by name; a run of a single method is a comparison of one."""
    if methods := results.get("methods"):
        return dict(methods)
    if results.get("accuracy") is None and results.get("head_sha256") is None:
        return {}
    return {str(results.get("strategy") or "run"): dict(results)}


def streamed(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The metrics of the methods that ran over a stream, by name."""
    metrics = {name: values.get("metrics") or {} for name, values in methods_of(results).items()}
    return {name: one for name, one in metrics.items() if one.get("steps")}


def method_cells(results: Mapping[str, Any]) -> Cells:
    """Headers and cells of the comparison, method by method in the order they ran."""
    methods = methods_of(results)
    yardstick = methods.get(YARDSTICK, {}).get("accuracy")
    over_steps = streamed(results)
    of_steps = ("average", "forgetting", "balanced") if over_steps else ()
    headers = ["method", "accuracy", "vs " + YARDSTICK, *of_steps]
    headers += ["rounds", "up/client", "down/client", "seconds", "head"]
    rows = [
        [
            name,
            percent(values.get("accuracy")),
            NOTHING if name == YARDSTICK else points(values.get("accuracy"), yardstick),
            *(_step_cells(over_steps.get(name, {})) if over_steps else ()),
            count(values.get("rounds")),
            human_bytes(values.get("bytes_up_per_client")),
            human_bytes(values.get("bytes_down_per_client")),
            seconds(values.get("seconds")),
            short_hash(values.get("head_sha256")),
        ]
        for name, values in methods.items()
    ]
    return headers, rows


def _step_cells(metrics: Mapping[str, Any]) -> list[str]:
    """Average accuracy over the steps, what was forgotten in points, and accuracy class by class at the end."""
    return [
        percent(metrics.get("average_accuracy")),
        points(metrics.get("forgetting"), 0.0).removeprefix("+"),
        percent(metrics.get("balanced_accuracy")),
    ]


def study_cells(results: Mapping[str, Any]) -> Cells | None:
    """Headers and cells of the run's study, one row a setting, over its seeds where it says so; None without one."""
    study = results.get("study") or {}
    rows = study.get("summary") or study.get("rows")
    if not rows:
        return None
    keys = list(dict.fromkeys(key for row in rows for key in row))
    headers = ["head" if key == "head_sha256" else key.replace("_", " ") for key in keys]
    return headers, [[_study_cell(key, row.get(key)) for key in keys] for row in rows]


def sweep_cells(rows: Iterable[Mapping[str, Any]]) -> Cells:
    """Headers and cells of a sweep: the overrides that differ between jobs, then what came out."""
    rows = list(rows)
    settings = [_overrides(row) for row in rows]
    keys = dict.fromkeys(key for setting in settings for key in setting)
    varying = [key for key in keys if len({str(setting.get(key)) for setting in settings}) > 1]
    more = [name for name in ("average", "balanced") if any(row.get(name) is not None for row in rows)]
    cells = [
        [
            *(str(setting.get(key, NOTHING)) for key in varying),
            str(row.get("method") or NOTHING),
            percent(row.get("accuracy")),
            *(percent(row.get(name)) for name in more),
            short_hash(row.get("head_sha256")),
            seconds(row.get("seconds")),
        ]
        for row, setting in zip(rows, settings, strict=True)
    ]
    return [*varying, "method", "accuracy", *more, "head", "seconds"], cells


def sweep_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """The summary of a sweep, a row for each job and method.

    Args:
        rows: Rows with `method`, `accuracy`, `head_sha256`, `seconds`, of a stream `average` and `balanced` accuracy,
            and the job's overrides: as `overrides` (a mapping or "key=value" texts) or as further keys. Overrides
            that every job shares are left out.
    """
    return _dressed(*sweep_cells(rows))


def table_text(results: Mapping[str, Any], width: int | None = None) -> str:
    """The tables of a run as plain text.

    Args:
        results: Content of `results.json`.
        width: Columns to fit into; None is the terminal's width, or as wide as it needs where there is no terminal.
    """
    if width is None and sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
    tables = [_fitted(method_cells(results), width)] if methods_of(results) else []
    if study := study_cells(results):
        tables.append(_fitted(study, width))
    printed = "\n".join(_printed(table, width) for table in tables) or "no method finished\n"
    return "".join([printed, *(f"{line}\n" for line in conditions(results))])


def conditions(results: Mapping[str, Any]) -> list[str]:
    """How well posed each closed-form solve was: eps times the condition bounds the error of its head."""
    names_of: dict[str, list[str]] = {}
    for name, values in methods_of(results).items():
        metrics = values.get("metrics") or {}
        if metrics.get("condition") is not None:
            text = f"condition {metrics['condition']:.1e} at ridge {metrics['ridge']:g}"
            names_of.setdefault(text, []).append(name)
    return [f"{', '.join(names)}: {text}" for text, names in names_of.items()]


def _dressed(headers: Sequence[str], rows: Iterable[Sequence[str]], narrow: bool = False) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0 if narrow else 1), show_edge=False)
    for header in headers:
        left = header in {"method", "head"}
        # Text, not str: a method's name may hold brackets, which rich would read as markup.
        label = Text(header.replace("/", "/\n").replace("vs ", "vs\n") if narrow else header)
        table.add_column(label, justify="left" if left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _fitted(cells: Cells, width: int | None) -> Table:
    headers, rows = cells
    table = _dressed(headers, rows)
    if width is None or _width(table) <= width:
        return table
    for drop in ("", *_EXPENDABLE):
        keep = [i for i, header in enumerate(headers) if header != drop]
        headers, rows = [headers[i] for i in keep], [[row[i] for i in keep] for row in rows]
        table = _dressed(headers, rows, narrow=True)
        if _width(table) <= width:
            break
    return table


def _width(table: Table) -> int:
    return Console(width=10_000).measure(table).maximum


def _printed(table: Table, width: int | None) -> str:
    file = io.StringIO()
    # No colour and no terminal: the same text on a screen, in a pipe and in a notebook.
    console = Console(file=file, width=max(width or _width(table), 1), color_system=None, force_terminal=False)
    console.print(table)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def _study_cell(key: str, value: Any) -> str:
    if value is None:
        return NOTHING
    if key in ("accuracy", "lowest", "highest", "local", "upper"):
        return percent(value)
    if key.endswith("sha256"):
        return short_hash(value)
    if key.endswith("seconds"):
        return seconds(value)
    if isinstance(value, float):
        return f"{value:.1e}" if "error" in key else f"{value:g}"
    return str(value)


def _overrides(row: Mapping[str, Any]) -> dict[str, Any]:
    given = row.get("overrides") or {}
    if not isinstance(given, Mapping):
        pairs = (str(item).partition("=") for item in given)
        given = {key: value for key, _, value in pairs}
    return {**given, **{key: value for key, value in row.items() if key not in _OUTCOMES}}

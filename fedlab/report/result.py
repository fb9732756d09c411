"""A finished run as a value: its numbers, its table, its figures.

The run directory is the truth; a `Result` only reads it. It is what `fedlab.simulate` returns, what a
notebook shows, and what the page is made of.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from fedlab.errors import BadInput, unknown
from fedlab.report.table import method_cells, methods_of, streamed, study_cells, table_text
from fedlab.report.template import html_table
from fedlab.tracking.run_directory import parse_events, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console, ConsoleOptions, RenderResult

EXPERIMENTS = {
    "dummy": "afl_dummy",
    "invariance": "afl_invariance",
    "projections": "dp_projections",
    "tradeoff": "dp_afl",
}
"""Which experiments make the studies of other names."""

OF_TEXTS = {"fdkt": ["gain", "epsilon", "pipeline"], "fdkt_audit": ["exposure"]}
"""The figures of studies that write texts."""


class TextTable(str):
    """A run's table as text that reads the same printed and echoed, and fits the console that rich prints to.

    Args:
        values: The content of `results.json`.
        width: Columns to fit into; None is the terminal's.
    """

    values: dict[str, Any]

    def __new__(cls, values: dict[str, Any], width: int | None = None) -> TextTable:  # noqa: D102 (as __init__)
        table = super().__new__(cls, table_text(values, width).rstrip("\n"))
        table.values = values
        return table

    def __repr__(self) -> str:
        return str(self)

    def __rich__(self) -> _Fitting:
        return _Fitting(self.values)


@dataclass(frozen=True)
class _Fitting:
    """What rich prints for a table: rich would read a plain str as markup, and wrap it."""

    values: dict[str, Any]

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(table_text(self.values, options.max_width).rstrip("\n"), no_wrap=True)


@dataclass(frozen=True)
class Result:
    """One run.

    Args:
        directory: The run directory.
        values: The content of its `results.json`.

    Examples:
        >>> result = Result.load("outputs/demo")     # doctest: +SKIP
        >>> print(result.table())                    # doctest: +SKIP
        >>> result["afl"]["accuracy"]                # doctest: +SKIP
    """

    directory: Path
    values: dict[str, Any] = field(repr=False)

    @classmethod
    def load(cls, directory: str | Path) -> Result:
        """Read a run directory.

        Args:
            directory: Where `results.json` lies.
        """
        directory = Path(directory)
        path = directory / "results.json"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise BadInput(
                f"no {path}: not a run directory, or its run did not end. Give the folder that `fedlab run` printed"
            ) from error
        except OSError as error:
            raise BadInput(f"cannot read {path}: {error.strerror}. Give the folder of a finished run") from error
        except ValueError as error:
            raise BadInput(f"{path} is not whole ({error}): run the experiment again") from error
        if not isinstance(values, dict):
            raise BadInput(f"{path} holds a {type(values).__name__}, not an object: run the experiment again")
        return cls(directory, values)

    @property
    def accuracy(self) -> float:
        """Accuracy of the run's strategy on the test split; NaN where none was measured."""
        accuracy = self.values.get("accuracy")
        return math.nan if accuracy is None else float(accuracy)

    @property
    def methods(self) -> dict[str, dict[str, Any]]:
        """The compared methods by name, each with the keys of `results.json`."""
        return methods_of(self.values)

    def __getitem__(self, method: str) -> dict[str, Any]:
        methods = self.methods
        if method not in methods:
            raise unknown("method", method, methods)
        return methods[method]

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """The run's events, oldest first; empty where none were kept. A torn line is passed over."""
        path = self.directory / "metrics.jsonl"
        try:
            return parse_events(path.read_bytes().splitlines())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise BadInput(f"cannot read {path}: {error.strerror}") from error

    @property
    def kinds(self) -> list[str]:
        """The figures that this run has the numbers for."""
        if study := (self.values.get("study") or {}).get("kind"):
            return OF_TEXTS.get(study, [study])
        return [*(("steps", "tasks", "classes") if streamed(self.values) else ("accuracy", "bytes")), "clients"]

    def table(self, width: int | None = None) -> TextTable:
        """The comparison of methods, and the study where the run has one.

        Args:
            width: Columns to fit into; None is the terminal's.
        """
        return TextTable(self.values, width)

    def plot(self, kind: str | None = None, path: str | Path | None = None) -> Figure:
        """Draw one figure of the run.

        Args:
            kind: accuracy (against rounds), bytes (accuracy against traffic), clients (how labels are spread over
                them, from `label_counts.json`); of a stream: steps (accuracy after each), tasks (what became of
                each), classes (their accuracy, many samples to few); of a study: invariance, dummy, phases, leakage
                (attacks against epsilon), tradeoff and projections (accuracy against epsilon), of fdkt gain (over
                local training), epsilon (accuracy against it), pipeline (texts kept), of fdkt_audit exposure (of
                secrets). None is the first of `kinds`.
            path: Save the PNG there too.
        """
        # Here, for a run that only prints a table need not load matplotlib.
        from fedlab.report import curves, figures, privacy, stream, texts

        kind = kind or self.kinds[0]
        rows = self._study_rows
        figure_of: dict[str, Callable[[], Figure]] = {
            "accuracy": lambda: curves.accuracy_against_rounds(self.values, self.events),
            "bytes": lambda: curves.accuracy_against_bytes(self.values, self.events),
            "clients": lambda: figures.label_distribution(self._label_counts()),
            "steps": lambda: stream.accuracy_after_each_step(self.values),
            "tasks": lambda: stream.task_matrices(self.values),
            "classes": lambda: stream.accuracy_of_each_class(self.values),
            "phases": lambda: stream.accuracy_against_samples(self.values),
            "invariance": lambda: figures.invariance_heatmap(rows("invariance")),
            "dummy": lambda: figures.dummy_errors(rows("dummy")),
            "leakage": lambda: privacy.attack_success(rows("leakage")),
            "tradeoff": lambda: privacy.accuracy_against_epsilon(rows("tradeoff")),
            "projections": lambda: privacy.accuracy_against_epsilon(rows("projections"), by="projection"),
            "gain": lambda: texts.gain_per_domain(rows("fdkt")),
            "epsilon": lambda: texts.accuracy_against_epsilon(rows("fdkt")),
            "pipeline": lambda: texts.pipeline(rows("fdkt") and self.values["study"]["cells"]),
            "exposure": lambda: texts.exposure(rows("fdkt_audit")),
        }
        if kind not in figure_of:
            raise unknown("figure", kind, figure_of)
        figure = figure_of[kind]()
        if path is not None:
            write_atomically(Path(path), png(figure))
        return figure

    def _label_counts(self) -> list[list[int]]:
        path = self.directory / "label_counts.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadInput(f"no readable {path}: this run kept no labels per client; run it again") from error

    def _study_rows(self, kind: str) -> list[Mapping[str, Any]]:
        study = self.values.get("study") or {}
        if study.get("kind") != kind or not study.get("rows"):
            name = EXPERIMENTS.get(kind, kind)
            raise BadInput(f"{self.directory} holds no {kind} study: run experiment={name}, then plot it")
        return study["rows"]

    def _repr_html_(self) -> str:
        tables = [html_table(*method_cells(self.values))] if self.methods else []
        if study := study_cells(self.values):
            tables.append(html_table(*study))
        if self.methods:
            picture = base64.b64encode(png(self.plot())).decode()
            tables.append(f'<img alt="{self.kinds[0]}" style="max-width:100%" src="data:image/png;base64,{picture}">')
        return "".join(tables)


def png(figure: Figure) -> bytes:
    """A figure as PNG bytes: the same bytes for the same figure, for no date is written into them."""
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()

"""One table at the end of `fedlab run -m`: a row per job and method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console

from fedlab.errors import BadInput
from fedlab.report.result import Result
from fedlab.report.table import sweep_table


class Summary(Callback):
    """Reads what the jobs left behind, wherever they ran; a job that failed has no row."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Print the table."""
        directory = Path(config.hydra.sweep.dir)
        if rows := list(_rows(directory)):
            console = Console()
            console.print(sweep_table(rows))
            console.print(f"runs in {directory}", soft_wrap=True, highlight=False)


def _rows(directory: Path) -> Iterator[dict[str, Any]]:
    def number(job: Path) -> tuple[int, str]:
        return (int(job.name) if job.name.isdecimal() else 0, job.name)

    for job in sorted((path.parent for path in directory.glob("*/results.json")), key=number):
        try:
            result = Result.load(job)
        except BadInput:  # torn: the job was killed, and said so
            continue
        overrides = yaml.safe_load((job / "overrides.yaml").read_text())
        for name, values in result.methods.items():
            shown = {key: values.get(key) for key in ("accuracy", "head_sha256", "seconds")}
            yield {"overrides": overrides, "method": name, **shown, **_of_stream(values.get("metrics") or {})}


def _of_stream(metrics: Mapping[str, Any]) -> dict[str, Any]:
    if not metrics.get("steps"):
        return {}
    return {"average": metrics.get("average_accuracy"), "balanced": metrics.get("balanced_accuracy")}

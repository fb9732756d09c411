"""One page for a run: table, figures, configuration and provenance in a single file.

Nothing is fetched and nothing runs: styles and pictures are inside, so that the page can be mailed, archived
and opened years later. It follows the reader's light or dark choice, and fits a telephone. Its markup is `page.html`.
"""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from pathlib import Path

from fedlab.report.result import Result
from fedlab.report.table import YARDSTICK, method_cells, study_cells
from fedlab.report.template import template
from fedlab.report.texts import sample_cells
from fedlab.report.words import NOTHING, count, human_bytes, percent, points, seconds, short_hash
from fedlab.tracking.run_directory import write_atomically

FILES = {"Configuration": "config.yaml", "Overrides": "overrides.yaml", "Manifest": "manifest.json"}


def write_page(directory: str | Path) -> Path:
    """Write `index.html` into a run directory.

    Args:
        directory: Run directory of a finished run.

    Returns:
        Path: The page.
    """
    result = Result.load(directory)
    page = result.directory / "index.html"
    write_atomically(page, render(result).encode())
    return page


def render(result: Result) -> str:
    """The page of a run as text."""
    values, folder = result.values, result.directory
    seed = "" if values.get("seed") is None else f", seed {values['seed']}"
    pictures = sorted(path for path in (folder / "figures").glob("*.png") if path.is_file())
    return template("page.html").render(
        name=str(values.get("experiment") or folder.resolve().name),
        lead=f"strategy {values.get('strategy') or NOTHING}{seed}",
        facts={key: value for key, value in _facts(result).items() if value != NOTHING},
        tables={"Methods": method_cells(values) if result.methods else None, "Study": study_cells(values)},
        pictures={p.stem.replace("_", " "): base64.b64encode(p.read_bytes()).decode() for p in pictures},
        texts=sample_cells(values.get("study") or {}),
        files={title: _text(folder / name) for title, name in FILES.items()},
    )


def _facts(result: Result) -> dict[str, str]:
    values = result.values
    yardstick = result.methods.get(YARDSTICK, {}).get("accuracy")
    facts = {
        "accuracy": percent(values.get("accuracy")),
        f"points to {YARDSTICK}": points(values.get("accuracy"), yardstick),
        "clients": count(values.get("clients")),
        "rounds": count(values.get("rounds")),
        "sent per client": human_bytes(values.get("bytes_up_per_client")),
        "seconds": seconds(values.get("seconds")),
        "peak memory": human_bytes(values.get("peak_rss_bytes")),
        "head": short_hash(values.get("head_sha256")),
    }
    if privacy := values.get("privacy"):
        facts["privacy"] = f"ε {privacy.get('epsilon')}, δ {privacy.get('delta')}, per {privacy.get('unit')}"
    return facts


def _text(path: Path) -> str | None:
    """Return a text file of the run; None where the run left none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    if path.suffix == ".json":
        # A torn one is still worth reading as it stands.
        with suppress(ValueError):
            text = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    return text

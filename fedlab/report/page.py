"""One page for a run: table, figures, configuration and provenance in a single file.

Nothing is fetched and nothing runs: styles and pictures are inside, so that the page can be mailed, archived
and opened years later. It follows the reader's light or dark choice, and fits a telephone.
"""

from __future__ import annotations

import base64
import html
import json
from contextlib import suppress
from pathlib import Path

from fedlab.report.result import Result
from fedlab.report.table import YARDSTICK, html_table, method_cells, study_cells
from fedlab.report.texts import sample_cells
from fedlab.report.words import NOTHING, count, human_bytes, percent, points, seconds, short_hash
from fedlab.tracking.run_directory import write_atomically

CSS = """
:root { color-scheme: light dark; --ink: #1c1c1c; --soft: #5f6368; --paper: #fff; --line: #dcdfe3;
  --box: #f5f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --soft: #a5abb3; --paper: #16181b; --line: #363a40; --box: #202327; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 62rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
p.lead { color: var(--soft); margin: 0; }
dl.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .6rem;
  margin: 1.2rem 0 0; }
dl.facts div { background: var(--box); border-radius: .5rem; padding: .6rem .8rem; }
dt { color: var(--soft); font-size: .8rem; } dd { margin: 0; font-size: 1.15rem; font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .4rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 0 0 1rem; } figcaption { color: var(--soft); font-size: .85rem; margin-top: .3rem; }
img { display: block; width: 100%; max-width: 52rem; height: auto; background: #fff;
  border: 1px solid var(--line); border-radius: .5rem; }
pre { background: var(--box); border-radius: .5rem; padding: .8rem; margin: 0; overflow-x: auto;
  font-size: .8rem; line-height: 1.4; overflow-wrap: normal; }
details summary { cursor: pointer; color: var(--soft); padding: .2rem 0 .5rem; }
"""


def write_page(directory: str | Path) -> Path:
    """Write `index.html` into a run directory.

    Parameters
    ----------
    directory
        A finished run.

    Returns
    -------
    Path
        The page.
    """
    result = Result.load(directory)
    page = result.directory / "index.html"
    write_atomically(page, render(result).encode())
    return page


def render(result: Result) -> str:
    """The page of a run as text."""
    name = str(result.values.get("experiment") or result.directory.resolve().name)
    sections = [
        _headline(result, name),
        _section("Methods", _scroll(html_table(*method_cells(result.values))) if result.methods else ""),
        _section("Study", _scroll(html_table(*study)) if (study := study_cells(result.values)) else ""),
        _section("Figures", "".join(_picture(path) for path in _pictures(result.directory))),
        _section("Texts", _texts(result)),
        _section("Configuration", _file(result.directory / "config.yaml")),
        _section("Overrides", _file(result.directory / "overrides.yaml")),
        _section("Manifest", _file(result.directory / "manifest.json")),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(name)}</title><style>{CSS}</style></head><body>\n"
        + "\n".join(section for section in sections if section)
        + "\n</body></html>\n"
    )


def _headline(result: Result, name: str) -> str:
    values = result.values
    strategy = str(values.get("strategy") or NOTHING)
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
    cells = "".join(
        f"<div><dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd></div>"
        for key, value in facts.items()
        if value != NOTHING
    )
    seed = "" if values.get("seed") is None else f", seed {values['seed']}"
    lead = html.escape(f"strategy {strategy}{seed}")
    return f'<h1>{html.escape(name)}</h1><p class="lead">{lead}</p><dl class="facts">{cells}</dl>'


def _section(title: str, body: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{body}</section>" if body else ""


def _texts(result: Result) -> str:
    samples = sample_cells(result.values.get("study") or {})
    if samples is None:
        return ""
    table = _scroll(html_table(*samples))
    return f"<details><summary>{len(samples[1])} texts, stage by stage</summary>{table}</details>"


def _scroll(table: str) -> str:
    return f'<div class="scroll" tabindex="0">{table}</div>'


def _pictures(directory: Path) -> list[Path]:
    return sorted(path for path in (directory / "figures").glob("*.png") if path.is_file())


def _picture(path: Path) -> str:
    caption = html.escape(path.stem.replace("_", " "))
    data = base64.b64encode(path.read_bytes()).decode()
    image = f'<img alt="{caption}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _file(path: Path) -> str:
    """A text file of the run, folded when long; nothing where the run left none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    if path.suffix == ".json":
        # A torn one is still worth reading as it stands.
        with suppress(ValueError):
            text = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    lines = text.count("\n") + 1
    body = f"<pre>{html.escape(text.strip())}</pre>"
    return f"<details{' open' if lines <= 30 else ''}><summary>{lines} lines</summary>{body}</details>"

"""`fedlab.simulate`: an experiment as a function call, for notebooks and scripts."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from experiments.config.compose import compose
from experiments.runner.execution import ended, perform, settle
from experiments.runner.resume import reopen
from fedlab.errors import BadInput
from fedlab.report.live import Live
from fedlab.report.result import Result
from fedlab.tracking.run_directory import RunDirectory


def simulate(experiment: str | None, settings: Mapping[str, Any]) -> Result:
    """Compose the experiment with these settings, run it, and return its result.

    Besides overrides, `settings` may hold `directory` (where to keep the run), `resume` (a run directory to
    continue) and `progress` (show it live).
    """
    settings = dict(settings)
    progress, where, resume = (settings.pop(name, None) for name in ("progress", "directory", "resume"))
    overrides = [override(key, value) for key, value in settings.items()]
    if resume is None:
        experiment = experiment or "afl_digits"
        overrides = [f"experiment={experiment}", *overrides]
        cfg = compose(overrides)
        directory = RunDirectory(Path(where or tempfile.mkdtemp(prefix=f"fedlab-{experiment}-")))
    else:
        named = [f"experiment={experiment}"] if experiment else []
        cfg, overrides = reopen(Path(resume), [*named, *overrides, *([f"directory={where}"] if where else [])])
        if ended(Path(resume)):
            return settle(Result.load(resume), missing=True)
        directory = RunDirectory(Path(resume))
    with Live() if progress else nullcontext() as live, directory:
        if live is not None:
            directory.subscribe(live)
        return perform(cfg, directory, overrides, resumed=resume is not None)


def override(key: str, value: Any) -> str:
    """Return a keyword as Hydra writes it: `partition__alpha=0.1` is `partition.alpha=0.1`."""
    return f"{key.replace('__', '.')}={_text(value)}"


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{_text(item)}' for key, item in value.items())}}}"
    if isinstance(value, (str, Path)):
        text = str(value)
        # Hydra reads bare words; anything else is quoted.
        return text if re.fullmatch(r"[\w./-]+", text) else "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
    raise BadInput(f"setting {value!r} is a {type(value).__name__}: give a number, a text, a list or a mapping")

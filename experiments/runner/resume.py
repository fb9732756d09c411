"""`fedlab run resume=DIR`: an interrupted run goes on, to the bits it would have come to.

Its own overrides compose its config again, and that must be the config it began with: the checkpoints are worth
nothing to another. Only where clients run and how often a checkpoint is written may change on the way, for no
result depends on it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from experiments.config.compose import compose
from experiments.config.old_names import new_override, old_names, translated
from fedlab.errors import BadInput
from fedlab.tracking.provenance import versions

CHECKPOINTS = "checkpoints"
"""The folder of a run directory that holds a folder of them per method, as long as the run has not ended."""
LEDGERS = "privacy"
"""The folder of a run directory that holds a file per method that promises privacy, of what it has released."""
FREE = ("engine", "checkpoint")
"""Settings that may change on the way."""
BINDING = ("chunk", "faults", "seed")
"""But not these of the engine: the first says which clients are summed together, the others who fails."""
NUMERIC = ("torch", "numpy", "scipy", "flwr")
"""Packages whose next version may round differently."""
SHOWN = 3


def ledger_of(run: Path, method: str) -> Path:
    """Return the file that counts what a method of a run has released."""
    return run / LEDGERS / f"{method}.jsonl"


def reopen(path: Path, changes: Sequence[str]) -> tuple[DictConfig, list[str]]:
    """Return the config of a run and the overrides that compose it.

    Args:
        path: Run directory.
        changes: Overrides given beside `resume=`; only those of `FREE` are taken.

    Raises:
        BadInput: It is no run directory, another version wrote it, its config is no longer what its overrides
            compose, or a change would change the result.
    """
    for change in changes:
        if _key(change).split(".")[0] not in FREE:
            raise BadInput(
                f"{change} beside resume={path}: a run goes on with its own settings, only {' and '.join(FREE)} may "
                "change. Leave it out, or start a new run"
            )
    kept, before = _read(path, "overrides.yaml", list), translated(_read(path, "config.yaml", dict))
    if odd := [override for override in kept if not isinstance(override, str)]:
        raise BadInput(f"{path / 'overrides.yaml'} is damaged ({odd[0]!r} is no override): start the run again")
    _check_version(path)
    kept = [new_override(override) for override in kept]
    chosen = {_key(change) for change in changes}
    # Another engine has other settings: the former one's go with it.
    dropped = {key for key in map(_key, kept) if key in chosen or key.split(".")[0] in chosen}
    overrides = [override for override in kept if _key(override) not in dropped] + list(changes)
    cfg = compose(overrides)
    now = yaml.safe_load(OmegaConf.to_yaml(cfg))
    different = list(_differences(_bound(before), _bound(translated(now))))
    if different:
        more = f" and {len(different) - SHOWN} more" if len(different) > SHOWN else ""
        raise BadInput(
            f"{path} was begun with other settings than its overrides give now: {', '.join(different[:SHOWN])}{more}. "
            "Continue it with the version that began it (see its manifest.json), or start a new run"
        )
    return cfg, overrides


def former_config(path: Path) -> dict[str, Any] | None:
    """Return the config of a run of before as it was written, in names that are no longer; None of any other run."""
    before = _read(path, "config.yaml", dict)
    return before if next(old_names(before), None) else None


def changed_versions(path: Path) -> str | None:
    """Return a warning where a library that computes is not the one that the run began with."""
    before, now = _versions_of(path), versions()
    changed = [
        f"{name} {before[name]}, now {now.get(name)}"
        for name in NUMERIC
        if name in before and before[name] != now.get(name)
    ]
    return f"the run began with {'; '.join(changed)}: its last bits may differ" if changed else None


def _key(override: str) -> str:
    return re.split(r"[=@]", override.lstrip("+~"), maxsplit=1)[0].replace("/", ".").strip()


def _read(path: Path, name: str, kind: type) -> Any:
    try:
        content = yaml.safe_load((path / name).read_text(encoding="utf-8"))
    except OSError as error:
        hint = "give the folder that `fedlab run` printed, or start the run again"
        if runs := sorted(config.parent.name for config in path.glob("*/config.yaml")):
            hint = f"it holds {len(runs)} runs, give one of them: resume={path / runs[0]}"
        raise BadInput(f"resume={path} is no run directory ({name}: {error.strerror}): {hint}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = str(error).strip().splitlines()[0]
        raise BadInput(f"{path / name} is damaged ({line}): start the run again") from error
    if not isinstance(content, kind):
        raise BadInput(f"{path / name} holds no {kind.__name__}: it is not a run's; start the run again")
    return content


def _versions_of(path: Path) -> dict[str, str]:
    with suppress(OSError, ValueError, TypeError, KeyError):
        return dict(json.loads((path / "manifest.json").read_text(encoding="utf-8"))["packages"])
    return {}  # killed before it was written


def _check_version(path: Path) -> None:
    name = "fedlab-analytic"
    before, now = _versions_of(path).get(name), versions().get(name)
    if before is not None and before != now:
        raise BadInput(
            f"{path} was begun with {name} {before}, this is {now}: continue it with that version, or start a new run"
        )


def _bound(config: dict[str, Any]) -> dict[str, Any]:
    engine = config.get("engine")
    if isinstance(engine, dict):  # anything else is told as it is
        engine = {key: engine.get(key) for key in BINDING}
    return {key: value for key, value in config.items() if key not in FREE} | {"engine": engine}


def _differences(before: Any, now: Any, where: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*before, *(key for key in now if key not in before)]:
            yield from _differences(before.get(key), now.get(key), f"{where}.{key}" if where else str(key))
    elif before != now or type(before) is not type(now):
        yield f"{where}={before} then, {now} now"

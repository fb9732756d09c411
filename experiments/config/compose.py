"""Compose a config outside Hydra's own command line, and say composition errors well."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.config.old_names import moved, new_key, new_override
from experiments.config.schema import register
from fedlab.errors import BadInput, unknown
from fedlab.extras import installing

COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException)


def configuration() -> Path:
    """Return the folder of YAML: beside the packages in a checkout, inside `fedlab` when installed."""
    checkout = Path(__file__).parents[2] / "conf"
    return checkout if (checkout / "config.yaml").exists() else Path(str(files("fedlab"))) / "conf"


def compose(overrides: Iterable[str]) -> DictConfig:
    """Return the config that these overrides describe, resolved.

    Raises:
        BadInput: A key or a value is unknown.
    """
    words = list(overrides)
    with composing(words):
        cfg = _compose(words)
        OmegaConf.resolve(cfg)
        return cfg


def recompose(run: Path, changes: Iterable[str]) -> DictConfig:
    """Return the config of a run with some changes: composed anew, for a setting stands in many places.

    Args:
        run: Directory of the run.
        changes: Overrides, after the run's own.

    Raises:
        BadInput: A key or a value is unknown.
    """
    overrides = OmegaConf.to_container(OmegaConf.load(run / "overrides.yaml"))
    assert isinstance(overrides, list)
    return compose([*(new_override(str(override)) for override in overrides), *changes])


@contextmanager
def composing(words: Iterable[str] = ()) -> Iterator[None]:
    """Turn what Hydra and OmegaConf raise within the block into `BadInput`.

    Args:
        words: Overrides that are composed: the choices among them say which keys there are.
    """
    try:
        yield
    except COMPOSITION_ERRORS as error:
        raise BadInput(explain(error, words)) from error
    except ValueError as error:
        # The one error of Hydra's that has no type of its own, and names no key.
        if not str(error).startswith("Config group override must be"):
            raise
        raise BadInput(
            "null is no choice: experiment, source, partition, features, network and engine take a name, "
            "methods a list of names; ~stream takes a stream away"
        ) from error


def explain(error: Exception, words: Iterable[str] = ()) -> str:
    """Return Hydra's message in one paragraph, with the known keys beside an unknown one."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, BadInput):  # a constructor refused its arguments, and said why
            return str(cause)
        cause = cause.__cause__
    text = str(error).strip()
    if missing := re.search(r"Could not override '([^']+)'", text):
        return _unknown_key(missing.group(1), words) or text
    if choice := re.search(r"Could not (?:find|load) '([\w/]+)/([^'/]+)'", text):
        group, name = choice.groups()
        if group.startswith("hydra/"):
            return (
                f"unknown {group} {name!r}: basic runs the jobs of a sweep one after the other; "
                f"{installing('sweep')} brings joblib"
            )
        options = [path.stem for path in (configuration() / group).glob("*.yaml")]
        return str(unknown(group, name, options))
    reason = str(error.__cause__).strip() if error.__cause__ else ""
    if reason and reason not in text:
        text = f"{text}\n{reason}"
    noise = ("full_key", "object_type", "reference_type", "Config search path", "provider=", "To append", "Set the env")
    lines = (line.strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith(noise))


def _is_group(word: str) -> bool:
    return (configuration() / word.partition("=")[0]).is_dir()


def _compose(overrides: list[str], with_hydra: bool = False) -> DictConfig:
    register()
    # A caller inside a Hydra application keeps its own configuration.
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(version_base="1.3", config_dir=str(configuration())):
            return hydra.compose("config", overrides, return_hydra_config=with_hydra)
    finally:
        GlobalHydra.instance().hydra = outer


def _unknown_key(key: str, words: Iterable[str]) -> str | None:
    if new_key(key) != key:
        return moved(key, new_key(key))
    choices = [word for word in words if re.fullmatch(r"[a-z]+=\[?[\w,]+\]?", word) and _is_group(word)]
    node: Any = _compose(choices, with_hydra=True)
    *parents, last = key.split(".")
    for parent in parents:
        if not (OmegaConf.is_dict(node) and parent in node):
            last = parent
            break
        node = node._get_node(parent)
    if not OmegaConf.is_dict(node):
        return None
    known = sorted(str(name) for name in node if not str(name).startswith("_"))
    close = get_close_matches(last, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"unknown key {key!r}: known here are {', '.join(known)}{hint}"

"""A config as YAML in which each setting stands beside what its class says of it: `fedlab run --help`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from inspect import cleandoc
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from experiments.config.signatures import docstring_of

PARAMETERS = re.compile(r"^    (\w+(?:, \w+)*): (.*(?:\n {8}.*)*)", re.MULTILINE)


def documented(cfg: DictConfig, schemas: Mapping[str, type]) -> str:
    """Return a config, unresolved, with the first sentence of each setting's documentation behind it.

    Args:
        cfg: Config to show.
        schemas: Classes that document what no `_target_` does, by their key.
    """
    plain: Any = OmegaConf.to_container(cfg, enum_to_str=True)
    plain.pop("hydra", None)
    return "\n".join(_lines(plain, "", schemas))


def sentences(docstring: str) -> dict[str, str]:
    """Return the first sentence of each parameter that a docstring documents."""
    return {
        name: re.split(r"[.;:](?:\s|$)", " ".join(text.split()), maxsplit=1)[0]
        for names, text in PARAMETERS.findall(docstring)
        for name in names.split(", ")
    }


def _lines(node: Mapping[str, Any], path: str, schemas: Mapping[str, type]) -> Iterator[str]:
    schema, target = schemas.get(path), node.get("_target_")
    notes = sentences(
        cleandoc(schema.__doc__ or "") if schema else docstring_of(target) if isinstance(target, str) else ""
    )
    for key, value in node.items():
        nested = isinstance(value, Mapping) and value
        text = (
            f"{key}:" if nested else yaml.dump({key: value}, width=1000, sort_keys=False, allow_unicode=True).rstrip()
        )
        note = f"  # {notes[key]}" if key in notes and "\n" not in text else ""
        yield from (f"{'  ' * path.count('.') + '  ' * bool(path)}{line}" for line in (text + note).split("\n"))
        if nested:
            yield from _lines(value, f"{path}.{key}".lstrip("."), schemas)

"""What constructors say of their settings: a value of another type is refused before anything is loaded.

A part of the config that names its class in `_target_` has no schema of its own; the class's annotations are
one, and so a new class needs none.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import is_dataclass
from typing import Any

from hydra.utils import get_object

from fedlab.errors import BadInput

WORDS = {int: "an integer", float: "a number", str: "a text", bool: "true or false", type(None): "null"}


def check_types(cfg: Any) -> None:
    """Refuse settings of another type than the constructor they are for says.

    Args:
        cfg: Config as plain dictionaries, lists and values.

    Raises:
        BadInput: Names the first such setting by its shortest key, its value and what it must be.
    """
    if wrong := [(key, value, hint) for key, value, hint in _settings(cfg, "") if not _fits(value, hint)]:
        # Many places may refer to one setting: the shortest key, and of those the first, is where it is set.
        key, value, hint = min(wrong, key=lambda setting: setting[0].count("."))
        quote = f""": as a text it is written {key}="'{value}'\"""" if hint is str and value is not None else ""
        raise BadInput(f"{key}={value} is not {_words(hint)}{quote}")


def _settings(node: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield (key, value, annotation) of everything that a constructor will be given."""
    if isinstance(node, Sequence) and not isinstance(node, str):
        for item in node:
            yield from _settings(item, path)
    if not isinstance(node, Mapping):
        return
    hints = _hints(node["_target_"]) if isinstance(node.get("_target_"), str) else {}
    for key, value in node.items():
        name = f"{path}.{key}" if path else str(key)
        if key in hints:
            yield name, value, hints[key]
        yield from _settings(value, name)


def _hints(target: str) -> dict[str, Any]:
    # What cannot be imported is told when it is called, by whoever calls it.
    with suppress(Exception):
        constructor = get_object(target)
        # A dataclass may inherit fields, and only the class knows in which module each was written.
        return typing.get_type_hints(constructor if is_dataclass(constructor) else constructor.__init__)
    return {}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value from a config may be passed; an annotation of any other kind takes everything."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in typing.get_args(hint))
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in WORDS:
        return isinstance(value, hint)
    if typing.get_origin(hint) is tuple:
        return isinstance(value, (str, list))
    return True


def _words(hint: Any) -> str:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_words(one) for one in typing.get_args(hint))
    return WORDS.get(hint, "a list")

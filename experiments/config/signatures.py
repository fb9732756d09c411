"""Defaults have one home, the signature; a config says `_signature_` where it takes settings from there.

    _target_: fedlab.data.partition.Dirichlet           _target_: fedlab.data.partition.Dirichlet
    _signature_: all                             ->     alpha: 0.1

`all` stands for every parameter that has a plain default and is not set beside it, a list for those it names. With
`_like_: privacy` what is not set beside it follows that part of the config, setting by setting. The source is read,
not run: `fedlab run --help` shows every setting with its value, and imports no torch for it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fedlab.errors import BadInput

SIGNATURE, ALL, LIKE = "_signature_", "all", "_like_"


def fill(cfg: DictConfig) -> None:
    """Put the settings that a config takes from signatures, or from a part of its own, in their places.

    Raises:
        BadInput: A config names a parameter that its class does not have, or whose default no config can hold.
    """
    for node in list(_nodes(cfg)):
        if SIGNATURE in node:
            names, target = node.pop(SIGNATURE), node["_target_"]
            defaults = defaults_of(target)
            if unknown := [name for name in names if name not in defaults and names != ALL]:
                raise BadInput(f"{target} has no default of {unknown[0]!r}, only of {', '.join(defaults)}")
            _complete(node, {name: defaults[name] for name in (defaults if names == ALL else names)})
    for node in list(_nodes(cfg)):
        if LIKE in node:
            part = node.pop(LIKE)
            for key, value in cfg[part]._content.items():
                follows = value._is_interpolation() or key == "_target_"
                _complete(node, {key: value._value() if follows else f"${{{part}.{key}}}"})


def _nodes(node: Any) -> Iterator[DictConfig]:
    if OmegaConf.is_dict(node) and not (node._is_none() or node._is_missing() or node._is_interpolation()):
        yield node
        for key in node:
            yield from _nodes(node._get_node(key))


def _complete(node: DictConfig, values: Mapping[Any, Any]) -> None:
    for key, value in values.items():
        if key not in node:
            node[key] = value


@cache
def defaults_of(target: str) -> dict[str, Any]:
    """Return the parameters of a class or function that have a plain default, and what it is.

    Args:
        target: Full name; a package that exports it will do.
    """
    module, node = _definition(target)
    return dict(_of_class(module, node) if isinstance(node, ast.ClassDef) else _of_function(node) if node else ())


def docstring_of(target: str) -> str:
    """Return the docstring of a class or function, after those of the classes that it inherits from."""
    module, node = _definition(target)
    bases = node.bases if isinstance(node, ast.ClassDef) else ()
    inherited = [docstring_of(f"{module}.{base.id}") for base in bases if isinstance(base, ast.Name)]
    return "\n\n".join([*inherited, (node and ast.get_docstring(node)) or ""])


@cache
def _definition(target: str) -> tuple[str, ast.ClassDef | ast.FunctionDef | None]:
    """Return where a class or function is written, module and syntax tree, by any name that it is exported under."""
    module, _, name = target.rpartition(".")
    for node in _source(module):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _definition(f"{node.module}.{alias.name}")
    return module, None


def _of_class(module: str, node: ast.ClassDef) -> Iterator[tuple[str, Any]]:
    made = next((item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"), None)
    if made:
        yield from _of_function(made)
        return
    for base in node.bases:
        if isinstance(base, ast.Name):
            yield from defaults_of(f"{module}.{base.id}").items()
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        for item in node.body:
            if (
                isinstance(item, ast.AnnAssign)
                and isinstance(item.target, ast.Name)
                and item.value
                and "ClassVar" not in ast.unparse(item.annotation)
            ):
                yield from _plain(item.target.id, item.value)


def _of_function(node: ast.FunctionDef) -> Iterator[tuple[str, Any]]:
    arguments = [*node.args.posonlyargs, *node.args.args]
    paired = zip(arguments[len(arguments) - len(node.args.defaults) :], node.args.defaults, strict=True)
    for argument, value in (*paired, *zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)):
        if value is not None:
            yield from _plain(argument.arg, value)


def _plain(name: str, value: ast.expr) -> Iterator[tuple[str, Any]]:
    if isinstance(value, ast.Call):  # field(default=0, kw_only=True)
        given = {word.arg: word.value for word in value.keywords}
        value = value if "init" in given else given.get("default", value)
    with suppress(ValueError):
        plain = ast.literal_eval(value)
        yield name, list(plain) if isinstance(plain, tuple) else plain


@cache
def _source(module: str) -> list[ast.stmt]:
    package, *parts = module.split(".")
    spec = find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        for file in (
            Path(folder, *parts[:-1], f"{parts[-1]}.py") if parts else None,
            Path(folder, *parts, "__init__.py"),
        ):
            if file and file.exists():
                return ast.parse(file.read_text(encoding="utf-8")).body
    return []

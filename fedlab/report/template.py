"""Markup by Jinja, every text escaped: the page's templates lie beside this file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Template


@cache
def template(name: str) -> Template:
    """Return a template of this folder; Jinja is loaded now, for most runs draw no page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    return Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    ).get_template(name)


def html_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table's cells as HTML."""
    return str(template("table.html").make_module().table(headers, rows))  # pyright: ignore[reportAttributeAccessIssue]

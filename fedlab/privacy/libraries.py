"""Opacus and dp_accounting, loaded when they are first used: they take seconds, and most methods do without."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Any


def part(module: str, name: str) -> Any:
    """Return a name of one of their modules; importing it must not set up logging for the whole program."""
    handlers = list(logging.root.handlers)
    try:
        return getattr(import_module(module), name)
    finally:
        logging.root.handlers[:] = handlers

"""A package of an extra that is not installed, said once and with the command that installs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fedlab.errors import BadInput


def installing(extra: str) -> str:
    """Return the command that installs an extra, at the versions that were tested together."""
    return f"pip install -c constraints.txt -e '.[{extra}]'"


@contextmanager
def needs(what: str, extra: str = "llm") -> Iterator[None]:
    """Turn a failed import within the block into what to install.

    Args:
        what: Name of the model or backbone that needs it.
        extra: Name of the extra in pyproject.toml.

    Raises:
        BadInput: If an import within the block fails; names what needs it, the package and the command.
    """
    try:
        yield
    except ImportError as error:
        raise BadInput(
            f"{what} needs the package {error.name or error}, which cannot be imported: {installing(extra)}"
        ) from error

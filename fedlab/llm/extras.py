"""A package of the extra `llm` that is not installed, said once and with the command that installs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fedlab.errors import BadInput


@contextmanager
def needs(model: str) -> Iterator[None]:
    """Turn a failed import within the block into what to install.

    Raises
    ------
    BadInput
        If an import within the block fails; names the model, the package and the extra.
    """
    try:
        yield
    except ImportError as error:
        raise BadInput(
            f"{model} needs the package {error.name or error}, which cannot be imported: "
            "pip install 'fedlab-analytic[llm]'"
        ) from error

"""What goes wrong, said once: the value, the limit, the remedy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class BadInput(ValueError):
    """An input that cannot be used. Its message names the value, the limit and the remedy.

    The command line prints the message alone and exits with code 2; the state of whatever refused the input
    is as it was before.
    """


REFUSED = f"{BadInput.__module__}.{BadInput.__name__}: "
"""What the last line of a BadInput's traceback begins with; the message follows."""


class ClientFailed(RuntimeError):
    """A client raised, or its reply was refused. Carries who it was, its own traceback, and who else failed."""

    def __init__(self, client: str, reason: str, others: Sequence[str] = ()):
        self.client, self.reason, self.others = client, reason, tuple(others)
        named = ", ".join(self.others[:20]) + (", ..." if len(self.others) > 20 else "")
        more = f"\n({len(self.others)} more clients failed: {named})" if self.others else ""
        super().__init__(f"client {client} failed: {reason.strip()}{more}")


def unknown(kind: str, name: object, known: Iterable[str]) -> BadInput:
    """'unknown dataset 'digit': known are digits, emoji, ...; did you mean 'digits'?'."""
    known = sorted(known)
    close = get_close_matches(str(name), known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return BadInput(f"unknown {kind} {name!r}: known are {', '.join(known)}{hint}")


def reason(error: BaseException) -> str:
    """Return what an error of somebody else's says, in one line: its first, or its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]

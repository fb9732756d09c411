"""Does a Flower server answer at this address, and with the right certificate? For waiting and for health checks.

SuperLink and SuperNode both answer GET /health, the SuperLink over TLS.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Callable
from pathlib import Path

from fedlab.errors import BadInput

RETRY_FOR = 5.0
"""Seconds that one question may take."""


class NoAnswer(BadInput):
    """Nobody answers there, or not yet."""


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of 'host:port'.

    Raises:
        BadInput: It is not of this form.
    """
    host, _, port = address.rpartition(":")
    try:
        host.encode("idna")  # as the resolver will
        possible = host.isprintable() and host.split() == [host] and port.isdecimal() and 0 < int(port) < 65536
    except UnicodeError:
        possible = False
    if not possible:
        raise BadInput(f"address {address!r} is no HOST:PORT, e.g. 127.0.0.1:8000")
    return host.strip("[]"), int(port)


def probe(address: str, authority: Path | None = None, retry_for: float = RETRY_FOR) -> None:
    """Ask the server at an address how it is; return if it is well.

    Args:
        address: Address as 'host:port'.
        authority: Certificate that the server's own must be signed with; None asks without TLS.
        retry_for: Seconds that the question may take.

    Raises:
        NoAnswer: Nobody listens there, or what listens is not well.
        BadInput: The certificate does not match the address or the authority, or the authority cannot be read.
    """
    host, port = split_address(address)
    if authority is None:
        connection = http.client.HTTPConnection(host, port, timeout=retry_for)
    else:
        context = _trusting(authority)
        connection = http.client.HTTPSConnection(host, port, timeout=retry_for, context=context)
    try:
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except ssl.SSLCertVerificationError as error:
        raise BadInput(
            f"the certificate that {address} shows does not match {authority}: "
            f"{error.verify_message.rstrip('.')}. Use the ca.crt of that SuperLink's own keys; if they are its "
            f"own, sign a certificate for this address there: fedlab deploy keys FOLDER --host {host}"
        ) from error
    except ssl.SSLError as error:
        raise BadInput(f"{address} does not speak TLS as expected: {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise NoAnswer(f"no answer from {address} ({reason}): start it, or check the address") from error
    finally:
        connection.close()
    if status != http.client.OK:
        raise NoAnswer(f"{address} answers with HTTP status {status}: it is no Flower server, or not well")


def wait_until_ready(ask: Callable[[], None], retry_for: float, check: Callable[[], None] = lambda: None) -> None:
    """Ask until there is an answer.

    Args:
        ask: Call of `probe`.
        retry_for: Seconds until the last `NoAnswer` is raised; any other error is raised at once.
        check: Function called after each question without an answer; may raise, when waiting has become pointless.
    """
    from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed  # a health check waits not

    Retrying(
        retry=retry_if_exception_type(NoAnswer),
        stop=stop_after_delay(retry_for),
        wait=wait_fixed(0.1),
        after=lambda _: check(),
        reraise=True,
    )(ask)


def _trusting(authority: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(authority))
    except (OSError, ssl.SSLError) as error:
        raise BadInput(
            f"{authority} is no authority's certificate ({error.strerror or error}): give the ca.crt that "
            "fedlab deploy keys made for this SuperLink"
        ) from error

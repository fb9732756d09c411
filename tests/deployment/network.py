"""Hosts with addresses of their own on one machine: network namespaces, each on a bridge by a cable that can be cut."""

import os
import shutil
import subprocess
from collections.abc import Iterable
from contextlib import suppress

from experiments.deploy.connection import Host

SUBNET = "10.99.7"


def why_not() -> str | None:
    """Return why there can be no namespaces here; None where there can."""
    if shutil.which("ip") is None:
        return "no `ip` here: the package iproute2 brings it"
    name = f"fedlab{os.getpid()}x"
    try:
        run("netns", "add", name)
        run("netns", "delete", name)
    except subprocess.CalledProcessError as error:
        return f"network namespaces are not permitted here: {error.stderr.strip()}"
    return None


class Network:
    """A bridge in a namespace of its own, and hosts plugged into it; all of it is gone after the `with` block."""

    def __init__(self, hosts: int):
        self._bridge = f"fedlab{os.getpid()}b"
        self._names = [f"fedlab{os.getpid()}h{number}" for number in range(hosts)]

        self.hosts = [
            Host(f"{SUBNET}.{number + 1}", ("ip", "netns", "exec", name)) for number, name in enumerate(self._names)
        ]

    def __enter__(self) -> "Network":
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        # Cables and bridge go with their namespaces.
        for name in [*self._names, self._bridge]:
            with suppress(subprocess.CalledProcessError):
                run("netns", "delete", name)

    def cut(self, host: int) -> None:
        run("-n", self._bridge, "link", "set", f"port{host}", "down")

    def mend(self, host: int) -> None:
        run("-n", self._bridge, "link", "set", f"port{host}", "up")

    def _build(self) -> None:
        run("netns", "add", self._bridge)
        run("-n", self._bridge, "link", "add", "bridge", "type", "bridge")
        run("-n", self._bridge, "link", "set", "bridge", "up")
        for number, name in enumerate(self._names):
            run("netns", "add", name)
            run("-n", self._bridge, "link", "add", f"port{number}", *peer("eth0", name))
            run("-n", self._bridge, "link", "set", f"port{number}", "master", "bridge", "up")
            run("-n", name, "address", "add", f"{self.hosts[number].address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                run("-n", name, "link", "set", device, "up")


def peer(device: str, namespace: str) -> Iterable[str]:
    return ("type", "veth", "peer", "name", device, "netns", namespace)


def run(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)

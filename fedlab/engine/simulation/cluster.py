"""Ray itself: started here or joined where it runs, its room, and whether its actors come up."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

import grpc
import ray
from ray.exceptions import RayActorError

from fedlab.errors import BadInput

START_TIMEOUT = 120.0
"""Seconds for all workers to start; a cluster may be bringing machines up."""
PROBE_TIMEOUT = 4.0
"""Seconds for an address to accept a connection, and as many to answer."""


def available_cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def connect(address: str | None, gpus: bool) -> None:
    """Start Ray here, or join the cluster at `address`; a process that is connected stays where it is."""
    if ray.is_initialized():
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address is None:
        # Ray counts the GPUs itself, but not when none are asked for: that takes a second.
        ray.init("local", include_dashboard=False, num_cpus=available_cpus(), num_gpus=None if gpus else 0, **quiet)
        return
    # Where RAY_ADDRESS is set, Ray takes it for 'auto'.
    meant = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    if meant not in ("", "auto", "local"):
        _probe(meant)
    try:
        ray.init(address=address, **quiet)
    except ConnectionError as error:
        raise BadInput(f"no Ray cluster answers at {address!r}: start one with `ray start --head`") from error


def check_room(num_workers: int, wanted: Mapping[str, float], offered: Mapping[str, float]) -> None:
    """Refuse workers that want more than Ray has."""
    for what, amount in wanted.items():
        if amount > (limit := offered.get(what, 0)):
            raise BadInput(
                f"engine: {num_workers} workers want {amount:g} {what}s, Ray offers {limit:g}: "
                f"lower engine.num_workers or engine.{what.lower()}s_per_worker"
            )


def wait_for_workers(workers: list[Any]) -> None:
    """Return when all have started; raise where one has no room or dies."""
    # An actor for which there is no room waits for ever, and so would its first message.
    calls = [worker.__ray_ready__.remote() for worker in workers]
    ready, missing = ray.wait(calls, num_returns=len(calls), timeout=START_TIMEOUT)
    if missing:
        raise BadInput(
            f"{len(missing)} of {len(workers)} Ray workers did not start within {START_TIMEOUT:g} s: other "
            "actors hold the CPUs or GPUs; close other grids, or lower engine.num_workers or "
            "engine.cpus_per_worker"
        )
    try:
        ray.get(ready)
    except RayActorError as error:
        raise BadInput(
            f"a Ray worker died ({str(error).strip().splitlines()[-1]}): often memory; try fewer "
            "engine.num_workers or a smaller engine.chunk"
        ) from error


def _probe(address: str) -> None:
    # ray.init retries for minutes; a closed port is known at once, and whoever listens must speak gRPC.
    target = address.removeprefix("ray://")
    host, _, port = target.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=PROBE_TIMEOUT).close()
        if os.environ.get("RAY_USE_TLS", "0") == "0":
            with grpc.insecure_channel(target, [("grpc.enable_http_proxy", 0)]) as channel:
                grpc.channel_ready_future(channel).result(timeout=PROBE_TIMEOUT)
                if target == address:
                    _check_head(channel)
    except (OSError, ValueError, grpc.FutureTimeoutError) as error:
        reason = str(error) or "what listens there is not Ray"
        raise BadInput(f"no Ray cluster answers at {address!r} ({reason}): start one with `ray start --head`") from None


def _check_head(channel: grpc.Channel) -> None:
    """Refuse another gRPC server, a SuperLink say: it does not know what every Ray head can be asked."""
    try:
        channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")(b"", timeout=PROBE_TIMEOUT)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:  # pyright: ignore[reportAttributeAccessIssue]
            raise OSError("what listens there is not Ray") from error

"""Flower's Grid without Flower's queue: the same ServerApp and ClientApp, in this process or on Ray.

    strategy            Broadcast(content, nodes)                       one object, however many nodes
    simulation          dropouts and stragglers are refused; the rest become calls of blocks
    host                a call: all clients in total, or together, or one by one
    messages            one partial sum a block, saying for how many clients and bytes it stands
    aggregation         late, damaged and doubled replies are counted; the others are aggregated in order

Blocks live on workers for good, and bits do not depend on the number of workers: a client's are its own (one thread
each), sums are formed by block, and blocks are added in their order. What nodes remember comes back with their replies,
so a worker that dies is replaced and its call made again. With `timeout`, what is late is left out, and that is up to
the clock.
"""

import os

OFFLINE = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Flower and Ray install, count and ask nothing over the network."""

# They read these when they are imported.
for _name, _value in (OFFLINE | {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}).items():
    os.environ.setdefault(_name, _value)

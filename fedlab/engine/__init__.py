"""Flower's Grid without Flower's queue: the same ServerApp and ClientApp, in this process or on Ray."""

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

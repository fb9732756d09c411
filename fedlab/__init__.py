"""fedlab: federated learning whose heart is closed-form.

A client reduces its data to a sum, the server adds sums and solves once. Importing this package loads neither
torch nor ray; they come with the first name that needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedlab.engine.simulation.local_grid import LocalGrid
    from fedlab.engine.simulation.ray_grid import RayGrid
    from fedlab.report.result import Result
    from fedlab.stats import GramStats

__version__ = "0.1.0"
__all__ = ["GramStats", "LocalGrid", "RayGrid", "Result", "simulate"]

_HOMES = {
    "GramStats": "fedlab.stats",
    "LocalGrid": "fedlab.engine.simulation.local_grid",
    "RayGrid": "fedlab.engine.simulation.ray_grid",
    "Result": "fedlab.report.result",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fedlab' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def simulate(experiment: str | None = None, /, **settings: Any) -> Result:
    """Run an experiment from Python: the same names and values as `fedlab run` takes.

    Args:
        experiment: A name from `conf/experiment`; None is afl_digits.
        settings: Overrides: `clients=100`, `methods=["afl"]`, `partition="iid"`; a dotted key is written with two
            underscores (`partition__alpha=0.1`). `directory=` says where the run is kept (default: a temporary
            directory), `progress=True` shows it live. `resume=` names a run directory whose run was interrupted, and
            stands alone: it goes on with its own settings.

    Returns:
        Result: With `.table()`, `.plot()`, `.accuracy`, `result["afl"]`, and a rendering in notebooks.

    Raises:
        BadInput: A key or a value is unknown or out of range.
    """
    # The library names its top floor only here, and only when the front door is used.
    return import_module("experiments.runner.simulation").simulate(experiment, settings)

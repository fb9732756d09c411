"""What a deployment and the simulation of its run agree on: what their numbers promise, no less and no more.

    exact      the same SHA-256 of statistics and head                  sums of integers have no order
    float64    |W' - W| / |W| <= max(1e-10, 10 eps cond(G + g I))       sums round by their order: threads, arrivals
    float32    |w' - w| / |w| <= sqrt(eps) = 3.5e-4                     descent: a step rounds what the last one gave
    noise      equal shapes                                             the operating system's is never twice the same

W heads that solve G + g I, w models that are averaged; |.| the Frobenius norm over all arrays of a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from fedlab.audit.deletion import relative
from fedlab.errors import BadInput

FLOAT32 = float(np.finfo(np.float32).eps) ** 0.5
"""Half of float32's digits stay over many steps of descent: no bound, but what averaging keeps in practice."""


def check_agreement(
    deployed: Mapping[str, Any],
    simulated: Mapping[str, Any],
    model: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    mode: str | None,
) -> str:
    """Return in words what a deployment and a simulation agree on.

    Args:
        deployed, simulated: Results, with the keys of the run-directory contract.
        model, expected: Models of the deployment and of the simulation.
        mode: Number system of the sums, 'exact' or 'float64'; None where a method knows none.

    Raises:
        BadInput: They differ by more than the mode allows.
    """
    shapes = [{name: array.shape for name, array in arrays.items()} for arrays in (model, expected)]
    if shapes[0] != shapes[1]:
        raise BadInput(f"the deployment's model has shapes {shapes[0]}, the simulation's {shapes[1]}.")
    if deployed["privacy"] is not None:
        return "noise of the operating system is never twice the same: the models have equal shapes"
    different = [key for key in ("statistics_sha256", "head_sha256") if deployed[key] != simulated[key]]
    if not different:
        return "the same head, to the bit"
    summed = deployed["statistics_sha256"] is not None
    if summed and mode != "float64":
        raise BadInput(
            f"mode={mode} promises bits, and {', '.join(different)} differ from the simulation's: do all programs "
            "run the same versions?"
        )
    apart = relative(_joined(model), _joined(expected))
    if summed:
        name, allowed = "mode=float64", float64_tolerance(simulated["metrics"]["condition"])
    else:
        name, allowed = "averaging", FLOAT32
    if not apart <= allowed:  # NaN is no agreement either
        raise BadInput(
            f"{name} promises models that differ by {allowed:.1e} at most, and the deployment's differs from the "
            f"simulation's by {apart:.1e}: do all programs run the same versions?"
        )
    return f"{name} rounds by the order of its sums: the models differ by {apart:.1e}, {allowed:.1e} is allowed"


def float64_tolerance(condition: float) -> float:
    """Return how far two heads over float64 sums of the same samples may be apart, relative to their norm."""
    return max(1e-10, 10 * float(np.finfo(np.float64).eps) * condition)


def _joined(model: Mapping[str, np.ndarray]) -> torch.Tensor:
    return torch.cat([torch.from_numpy(model[name]).double().flatten() for name in sorted(model)])

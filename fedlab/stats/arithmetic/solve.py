"""Ridge regression from its sufficient statistics: one factorisation, one solve.

    W = (G + g I)^-1 C        Cholesky; where G is singular and g = 0, the minimum-norm solution G^+ C

The bits of a solve depend on the number of threads and on the number of columns. So the solve runs on the
CPU, on one thread, all columns at once: equal statistics give equal heads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from scipy.linalg.lapack import dpocon  # pyright: ignore[reportAttributeAccessIssue]
from torch import Tensor

from fedlab import checks
from fedlab.errors import BadInput


@dataclass(frozen=True, eq=False)
class Solution:
    """A head and how well its system was posed.

    Attributes:
        weight: Head, (d, c), in the units of the features.
        ridge: Ridge g that was used.
        condition: Condition number of G + g I (1-norm, estimated from the factor); of the kept part if
            rank-deficient.
        rank: Rank: d, or less where the minimum-norm solution was taken.
    """

    weight: Float64[Tensor, "d c"]
    ridge: float
    condition: float
    rank: int

    @property
    def diagnostic(self) -> str | None:
        """What a reader must know before trusting the head; None when there is nothing."""
        d = self.weight.shape[0]
        if self.rank < d:
            return (
                f"the system is singular: rank {self.rank} of {d} with ridge {self.ridge:g}; "
                "this is the minimum-norm solution (set a larger ridge, or ridge=gcv, for a regularised one)"
            )
        if self.condition * np.finfo(np.float64).eps > 1e-3:
            return f"the system is ill-conditioned: condition {self.condition:.1e}; raise the ridge ({self.ridge:g})"
        return None


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch's kernels of the calling thread on one thread, and restore the setting afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def ridge_solve(gram: Float64[Tensor, "d d"], cross: Float64[Tensor, "d c"], ridge: float) -> Solution:
    """Solve (G + ridge I) W = C.

    Raises:
        BadInput: The ridge is negative or not finite, or a sum overflowed.
    """
    checks.number("ridge", ridge, least=0, remedy="'gcv' chooses it from the statistics")
    gram, cross = gram.cpu(), cross.cpu()
    d = gram.shape[0]
    with one_thread():
        check_finite(gram, cross)
        system = gram.clone()
        system.diagonal().add_(ridge)
        factor, failed = torch.linalg.cholesky_ex(system)
        if not failed:
            norm = float(system.abs().sum(0).max())
            rcond, _ = dpocon(factor.numpy(), norm, uplo="L")
            # A pivot below the rounding of the sums is noise, not information; a ridge that is lost in it too.
            if rcond > np.finfo(np.float64).eps * (1 if ridge > 0 else d):
                return Solution(torch.cholesky_solve(cross, factor), ridge, 1 / rcond, d)
        return _minimum_norm(system, cross, ridge)


def check_finite(gram: Tensor, cross: Tensor) -> None:
    """Refuse sums that left the range of float64."""
    # A sum of numbers is finite only if all of them are, and costs a tenth of asking each; it may overflow by itself.
    if not all(math.isfinite(float(sums.sum())) or bool(sums.isfinite().all()) for sums in (gram, cross)):
        raise BadInput("the statistics overflow float64: scale the features (by a public constant) to about 1")


def _minimum_norm(system: Tensor, cross: Tensor, ridge: float) -> Solution:
    values, vectors = torch.linalg.eigh(system)
    kept = values > values.abs().max() * len(values) * np.finfo(np.float64).eps
    values, vectors = values[kept], vectors[:, kept]
    weight = vectors @ ((vectors.T @ cross) / values[:, None])
    condition = float(values.max() / values.min()) if len(values) else 1.0
    return Solution(weight, ridge, condition, int(kept.sum()))


def generalised_cross_validation(
    gram: Float64[Tensor, "d d"], cross: Float64[Tensor, "d c"], count: int, target_squares: float
) -> float:
    """Choose the ridge g that minimises  |Y - X W_g|^2 / (n - tr H_g)^2  from statistics alone.

    With G = V diag(s) V' and z = V'C, the residual is  |Y|^2 - 2 sum z^2/(s+g) + sum s z^2/(s+g)^2  and
    tr H = sum s/(s+g): no sample is needed again. Golub, Heath and Wahba 1979, Technometrics 21(2), eq. 1.4.
    """
    gram, cross = gram.cpu(), cross.cpu()
    with one_thread():
        check_finite(gram, cross)
        values, vectors = torch.linalg.eigh(gram)
        z2 = (vectors.T @ cross).square().sum(1)
    s = values.clamp(min=0)
    ridges = torch.logspace(-10, 3, 131, dtype=torch.float64) * (float(s.mean()) or 1.0)
    shrunk = s + ridges[:, None]  # (candidates, d)
    residual = target_squares - 2 * (z2 / shrunk).sum(1) + (s * z2 / shrunk.square()).sum(1)
    freedom = 1 - (s / shrunk).sum(1) / count
    # At n <= d the smallest ridges interpolate: 0/0 says nothing about them.
    score = torch.where(freedom > 1e-6, residual.clamp(min=0) / freedom.square(), torch.inf)
    return float(ridges[int(score.argmin())])

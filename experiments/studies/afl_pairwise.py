"""AFL's absolute aggregation law as the paper states it: local solutions, merged two at a time.

    W_k = C_k^-1 X_k'Y_k,  C_k = X_k'X_k + g I
    W   = A_u W_u + A_v W_v,   R = C^-1,  S = (C_u + C_v)^-1
    A_u = I - R_u C_v + R_u C_v S C_v,   A_v = I - R_v C_u + R_v C_u S C_u
    at the end  W <- (C - k g I)^-1 C W        (the regularisation intermediary removes the k ridges)

Kept as the peer that fedlab's sums are timed and checked against; no method uses it. He et al., AFL, CVPR
2025, eqs. 5-13, https://arxiv.org/abs/2405.16240.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def local_solution(x: Tensor, y: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Return a client's W_k (d, c) and C_k (d, d); without a ridge, n < d takes the pseudo-inverse."""
    gram = x.T @ x + ridge * torch.eye(x.shape[1], dtype=x.dtype)
    return _inverse(gram) @ (x.T @ y), gram


def merge(u: tuple[Tensor, Tensor], v: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the law's combination of two parties."""
    (w_u, c_u), (w_v, c_v) = u, v
    eye = torch.eye(len(c_u), dtype=c_u.dtype)
    r_u, r_v, s = _inverse(c_u), _inverse(c_v), _inverse(c_u + c_v)
    a_u = eye - r_u @ c_v + r_u @ c_v @ s @ c_v
    a_v = eye - r_v @ c_u + r_v @ c_u @ s @ c_u
    return a_u @ w_u + a_v @ w_v, c_u + c_v


def aggregate(parties: Sequence[tuple[Tensor, Tensor]], ridge: float) -> Tensor:
    """Merge all parties by recursion, then remove the ridges."""
    total = parties[0]
    for party in parties[1:]:
        total = merge(total, party)
    weight, gram = total
    if ridge == 0:
        return weight
    without = gram - len(parties) * ridge * torch.eye(len(gram), dtype=gram.dtype)
    return torch.linalg.solve(without, gram @ weight)


def _inverse(matrix: Tensor) -> Tensor:
    # The paper's formulas invert, and the released code does: so does the peer. Rounding seldom leaves a zero
    # pivot in a singular matrix, so its condition is asked, not whether the inversion went through.
    inverse, failed = torch.linalg.inv_ex(matrix)
    condition = float(torch.linalg.matrix_norm(matrix, 1) * torch.linalg.matrix_norm(inverse, 1))
    if not failed and condition * len(matrix) * torch.finfo(matrix.dtype).eps < 1:
        return inverse
    return torch.linalg.pinv(matrix, hermitian=True)

"""One-sided Jacobi on rows whose sizes lie any number of orders of magnitude apart.

Rows r_i = 2^{e_i} u_i are rotated in pairs until all are orthogonal; their norms are then the singular values. When a
matrix is a diagonal times a well-conditioned matrix, this finds every singular value to high relative accuracy
(Demmel & Veselic 1992). The rotation of a large row p and a small row q is written in the ratio rho = 2^{e_q - e_p},
so that it turns into a Gram-Schmidt step where rho underflows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradscope.numerics.scale import normalise

ORTHOGONAL = 1e-13
MOST_SWEEPS = 30


def log_singular_values(rows: Tensor, exponents: Tensor) -> Tensor:
    """ln of the singular values of diag(2^exponents) rows, largest first, (batch, N); -inf for zero rows.

    Args:
        rows: (batch, N, N), each row at most of order one.
        exponents: powers of two, (batch, N).
    """
    size = rows.shape[-1]
    u, e = normalise(rows, exponents)
    rounds = _tournament(size)
    for _ in range(MOST_SWEEPS):
        worst = torch.zeros(())
        for p, q in rounds:
            u, e, cosine = _rotate(u, e, p, q)
            worst = torch.maximum(worst, cosine.max())
        if float(worst) < ORTHOGONAL:
            break
    logs = u.square().sum(-1).sqrt().log() + e.double() * math.log(2.0)
    return logs.sort(-1, descending=True).values


def _tournament(size: int) -> list[tuple[Tensor, Tensor]]:
    """Every pair of rows once, in rounds of disjoint pairs (the circle method)."""
    players = list(range(size + size % 2))
    half, rounds = len(players) // 2, []
    for _ in range(len(players) - 1):
        pairs = [
            pair for pair in zip(players[:half], players[: half - 1 : -1], strict=True) if max(pair) < size
        ]
        if pairs:
            first, second = zip(*pairs, strict=True)
            rounds.append((torch.tensor(first), torch.tensor(second)))
        players = [players[0], players[-1], *players[1:-1]]
    return rounds


def _rotate(u: Tensor, e: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Make the rows of each pair orthogonal; returns rows, exponents and the cosines found before."""
    swap = (e[:, second] > e[:, first])
    p, q = torch.where(swap, second, first), torch.where(swap, first, second)
    pick = p[..., None].expand(*p.shape, u.shape[-1]), q[..., None].expand(*q.shape, u.shape[-1])
    up, uq = u.gather(1, pick[0]), u.gather(1, pick[1])
    ep, eq = e.gather(1, p), e.gather(1, q)
    rho = torch.ldexp(torch.ones_like(up[..., 0]), (eq - ep).clamp_min(-1000).to(torch.int32))
    a, b, g = up.square().sum(-1), uq.square().sum(-1), (up * uq).sum(-1)
    # tan = rho tau, with z = rho zeta of the usual formula zeta = (b' - a') / (2 g').
    z = (rho.square() * b - a) / (2 * g)
    tau = torch.where(z < 0, -1.0, 1.0) / (z.abs() + (rho.square() + z.square()).sqrt())
    tau = torch.where(g == 0, torch.zeros_like(tau), tau)[..., None]
    r = rho[..., None]
    cosine = (1 + (r * tau).square()).rsqrt()
    vp, dp = normalise(cosine * (up - r.square() * tau * uq), ep)
    vq, dq = normalise(cosine * (tau * up + uq), eq)
    u = u.scatter(1, pick[0], vp).scatter(1, pick[1], vq)
    e = e.scatter(1, p, dp).scatter(1, q, dq)
    found = g.abs() / (a * b).sqrt()
    return u, e, torch.where((a > 0) & (b > 0), found, torch.zeros_like(found))

"""A frame carried along a chain: multiplied on as far as its condition allows, then factorised.

A frame of orthonormal columns is what exponents are defined by, but any basis of the same nested subspaces carries the
same growth: A = P^T L U with row pivoting leaves the columns of P^T L, which span what those of A do and are well
conditioned, for a third of the price of A = Q R (the staircase iteration of Rutishauser and Bauer). What the growth of
such a frame lacks is the volume of the frame itself, which the R of one QR of it tells. Its pivots multiply to |det A|
whatever the scale of single rows, as slopes near zero make them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from gradscope.chain import JacobianChain

SMALL = 16
"""Columns up to which a QR factorisation costs no more than a pivoted LU."""
PROBES = 4
ROUND = 8
"""Factorisations between two looks at their condition: each look waits for the device."""
ALLOWED = {torch.float64: 1e6, torch.float32: 1e3}
"""Condition that may build up between two factorisations: the smallest growths lose that many of their digits."""


@dataclass(frozen=True)
class Factored:
    """A = frame * R, with R triangular."""

    frame: Tensor
    """(batch, N, k)."""
    diagonal: Tensor
    """Diagonal of R for sequence 0: the growth of each direction, up to its sign, (k)."""
    condition: Tensor
    """||A||_F ||R^-1||_F of sequence 0, estimated, 0-dim; inf where R is singular or near the ends of its range."""
    upper: Tensor | None = None
    """R of sequence 0, (k, k), where the frame is orthonormal."""


def factorise(a: Tensor) -> Factored:
    """Factors of a frame (batch, N, k): row-pivoted LU of a large whole basis, QR otherwise."""
    if a.shape[-1] < a.shape[-2] or a.shape[-1] <= SMALL:
        return orthonormalise(a)
    packed, pivots, _ = torch.linalg.lu_factor_ex(a)
    condition, diagonal = _condition(a[0], packed[0]), packed[0].diagonal().clone()
    lower = packed.tril_(-1)
    lower.diagonal(dim1=-2, dim2=-1).fill_(1.0)
    moved = lower.mT.gather(-1, _rows(pivots, packed)[:, None].expand_as(lower)).mT
    return Factored(moved, diagonal, condition)


def _rows(pivots: Tensor, packed: Tensor) -> Tensor:
    """Which row of L each row of P^T L is, (batch, N)."""
    if pivots.device.type != "cpu":
        # Read off the columns of P that hold a one, without waiting for the device.
        moved = torch.lu_unpack(packed, pivots, unpack_data=False)[0]
        return (moved @ torch.arange(moved.shape[-1], dtype=moved.dtype, device=moved.device)).long()
    found = []
    for swaps in pivots.tolist():
        order = list(range(len(swaps)))
        for row, other in enumerate(swaps):
            order[row], order[other - 1] = order[other - 1], order[row]
        found.append(order)
    return torch.tensor(found).argsort(-1)


def random_frame(chain: JacobianChain, count: int) -> Tensor:
    """Orthonormal columns that lean to no unit, always the same, (batch, size, count)."""
    drawn = torch.randn(chain.size, count, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    frame: Tensor = torch.linalg.qr(drawn).Q.to(chain.like)
    return frame.expand(chain.batch, -1, -1)


def orthonormalise(a: Tensor) -> Factored:
    """Factors of a frame whose next one is orthonormal."""
    q, r = torch.linalg.qr(a)
    return Factored(q, r[0].diagonal(), _condition(a[0], r[0]), r[0])


def log_volumes(frame: Tensor) -> Tensor:
    """Ln |R_ii| of the frame of sequence 0: what its first i columns span, beside what one fewer span, (k)."""
    r: Tensor = torch.linalg.qr(frame[0], mode="r").R
    return r.diagonal().double().abs().log()


def _condition(a: Tensor, r: Tensor) -> Tensor:
    """||R^-1||_F^2 is the mean of ||R^-1 w||^2 over standard normal w; a few w find it to a factor of two or so."""
    info, pivots = torch.finfo(r.dtype), r.diagonal().abs()
    solved = torch.linalg.solve_triangular(r, _probes(len(r), r.dtype, r.device), upper=True)
    norms = torch.linalg.vector_norm(a).double() * torch.linalg.vector_norm(solved).double() / PROBES**0.5
    held = (pivots.amin() > info.tiny**0.9) & (pivots.amax() < info.max**0.9)
    return torch.where(held, norms, torch.inf).nan_to_num(nan=torch.inf)


@cache
def _probes(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    drawn = torch.randn(size, PROBES, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return drawn.to(device, dtype)


@dataclass(frozen=True)
class Carried:
    """A frame after some steps, and what was factored out of it on the way."""

    frame: Tensor
    factors: list[Factored]
    ends: list[int]
    """The step at which each factor was taken out."""
    condition: float
    """The worst that built up between two factorisations, the volume of the whole basis counting as one."""
    stride: int
    """How many Jacobians to multiply at a time from here on."""


def carry(
    chain: JacobianChain, frame: Tensor, stride: int, start: int, stop: int, *, orthonormal: bool = False
) -> Carried:
    """Carry a frame over the steps start + 1 .. stop, multiplying `stride` Jacobians or more between factorisations.

    The stride follows the condition found in the last factors. Where more builds up than is allowed, the steps are done
    again with half the stride; single Jacobians are taken as they are. `orthonormal` asks for QR factorisations only.
    """
    split = orthonormalise if orthonormal else factorise
    allowed = ALLOWED.get(frame.dtype, 10.0)
    factors: list[Factored] = []
    ends: list[int] = []
    worst, t = 0.0, start
    while t < stop:
        groups = [(a, min(a + stride, stop)) for a in range(t, min(stop, t + ROUND * stride), stride)]
        tried = _factor_groups(chain, frame, groups, split)
        condition = float(torch.stack([one.condition for one in tried]).max())
        if condition > allowed and stride > 1:
            stride //= 2
            continue
        factors += tried
        ends += [end for _, end in groups]
        frame, t, worst = tried[-1].frame, ends[-1], max(worst, condition)
        longest = max(end - begin for begin, end in groups)
        stride = _next_stride(stride, longest, condition / frame.shape[-1], allowed / frame.shape[-1])
    return Carried(frame, factors, ends, worst, stride)


def _factor_groups(
    chain: JacobianChain, frame: Tensor, groups: list[tuple[int, int]], split: Callable[[Tensor], Factored]
) -> list[Factored]:
    found = []
    for start, stop in groups:
        for t in range(start + 1, stop + 1):
            frame = chain.matmat(t, frame)
        found.append(split(frame))
        frame = found[-1].frame
    return found


def _next_stride(stride: int, steps: int, condition: float, allowed: float) -> int:
    """As many steps as keep the condition below `allowed` if it builds up as it did over the last `steps`."""
    if condition >= allowed:
        return max(1, stride // 2)
    per_step = math.log(max(condition, 1.001)) / steps
    return max(1, min(2 * stride, int(math.log(allowed) / per_step)))

"""Numbers beyond the range of floating point: a mantissa tensor and an integer power of two beside it.

A pair (m, e) stands for m * 2^e; e has the shape of m without its last dimension (or broadcasts to it). Rescaling by
powers of two is exact, so no result depends on how often it is done.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradscope.models.cell_parts import row_norms

LOG10_2 = math.log10(2.0)
_LIMIT = {torch.float64: 1000, torch.float32: 120, torch.bfloat16: 120, torch.float16: 14}


def normalise(m: Tensor, e: Tensor | None = None, dims: int = 1) -> tuple[Tensor, Tensor]:
    """The same value with its largest entry over the last `dims` dimensions in [0.5, 1); zeros and NaN stay."""
    over = tuple(range(-dims, 0))
    # The largest magnitude without a copy of all magnitudes.
    top = torch.maximum(m.detach().amax(over), -m.detach().amin(over))
    shift = torch.frexp(top).exponent.clamp(-_LIMIT[m.dtype], _LIMIT[m.dtype])
    scaled = m * power_of_two(-shift, m.dtype)[(..., *(None,) * dims)]
    return scaled, shift.long() if e is None else e + shift


def power_of_two(exponent: Tensor, dtype: torch.dtype) -> Tensor:
    """2^e, exact; an exponent beyond the type's range gives zero or infinity."""
    return torch.ldexp(torch.ones_like(exponent, dtype=dtype), exponent.to(torch.int32))


def add(a: Tensor, ea: Tensor, b: Tensor, eb: Tensor) -> tuple[Tensor, Tensor]:
    """(a, ea) + (b, eb), aligned to the larger exponent; an all-zero side does not count."""
    lowest = torch.iinfo(ea.dtype).min // 4
    top = torch.maximum(
        torch.where((a != 0).any(-1), ea, lowest), torch.where((b != 0).any(-1), eb.to(ea.dtype), lowest)
    )
    top = torch.where(top == lowest, ea, top)
    return _shift(a, ea - top) + _shift(b, eb - top), top


def _shift(m: Tensor, by: Tensor) -> Tensor:
    limit = _LIMIT[m.dtype]
    gone = by < -2 * limit
    halves = by.clamp(-2 * limit, 2 * limit)
    first = halves // 2
    moved = torch.ldexp(torch.ldexp(m, first[..., None]), (halves - first)[..., None])
    return torch.where(gone[..., None], torch.zeros_like(moved), moved)


def log10_norm(m: Tensor, e: Tensor | None = None, dims: int = 1) -> Tensor:
    """log10 of the Euclidean norm over the last `dims` dimensions, float64; -inf for zero, NaN and inf kept."""
    wide = m.flatten(-dims)
    if m.dtype != torch.float64:
        narrow = row_norms(wide).log10()
        return narrow if e is None else narrow + e.double() * LOG10_2
    top = wide.abs().amax(-1, keepdim=True) if wide.shape[-1] else wide.new_zeros(*wide.shape[:-1], 1)
    safe = torch.where((top > 0) & top.isfinite(), top, torch.ones_like(top))
    found = (wide / safe).square().sum(-1).sqrt().log10() + safe[..., 0].log10()
    return found if e is None else found + e.double() * LOG10_2


def log10_sum(logs: Tensor, dim: int = -1) -> Tensor:
    """log10 of the sum of the numbers whose log10 is given."""
    return torch.logsumexp(logs * math.log(10.0), dim) / math.log(10.0)


def log10_hypot(logs: Tensor, dim: int = 0) -> Tensor:
    """log10 of the square root of the summed squares."""
    return log10_sum(2 * logs, dim) / 2

"""Products P_t = J_T ... J_{t+1}: their largest singular values, and the norms of the single Jacobians."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gradscope.chain import JacobianChain
from gradscope.numerics.largest import largest_singular_values
from gradscope.numerics.scale import LOG10_2, normalise

CHUNK_NUMBERS = 2**22
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Products:
    """Singular values of P_t by lag."""

    log10_norm: Tensor
    """log10 of the largest singular value of P_0 .. P_T, (T + 1); -inf where the product is exactly zero."""
    directions: int
    """How many singular values of the product over the lag asked for are at least 1 % of the largest."""
    rank_lost_at: int | None
    """Largest t at which J_t is exactly the zero matrix."""


def chunks(length: int, size: int, numbers: int = CHUNK_NUMBERS) -> Iterator[tuple[int, int]]:
    """(start, stop) pieces of 0 .. length that keep `numbers` matrix entries at a time, from the front."""
    step = max(1, numbers // (size * size))
    return ((start, min(start + step, length)) for start in range(0, length, step))


def jacobian_sigma(chain: JacobianChain) -> Tensor:
    """Natural logs of the singular values of J_1 .. J_T of sequence 0, largest first, (T, N)."""
    pieces = []
    for start, stop in chunks(chain.length, chain.size):
        matrices, exponents = normalise(chain.dense(start, stop)[0].double(), dims=2)
        pieces.append(torch.linalg.svdvals(matrices).log().cpu() + exponents.cpu().double()[:, None] * math.log(2))
    return torch.cat(pieces)


def sweep_products(chain: JacobianChain, lag: int | None = None, progress: Progress = lambda done: None) -> Products:
    """Multiply the Jacobians of sequence 0 from the newest back, with the scale carried in an exponent.

    The largest singular values, down to 1 % of the first, are right to rounding however long the product; the smallest
    are lost in it and come from `spectrum` instead.

    Args:
        chain: the Jacobians.
        lag: where to count directions; the whole chain when absent.
        progress: called with the steps done.
    """
    length, size = chain.length, chain.size
    lag = length if lag is None else lag
    log10_norm = torch.zeros(length + 1, dtype=torch.float64)
    directions = size
    zero_at = None
    p: Tensor | None = None
    e = torch.zeros((), dtype=torch.int64)
    for start, stop in reversed(list(chunks(length, size))):
        jacobians = chain.dense(start, stop)[0].double()
        kept, exponents = [], []
        for t in range(stop - 1, start - 1, -1):
            p = jacobians[t - start] if p is None else p @ jacobians[t - start]
            p, e = normalise(p, e, dims=2)
            kept.append(p)
            exponents.append(e)
        together = torch.stack(kept[::-1])
        scale = torch.stack(exponents[::-1]).to("cpu", torch.float64) * LOG10_2
        log10_norm[start:stop] = largest_singular_values(together).log10().cpu() + scale
        if start <= length - lag < stop:
            sigma = torch.linalg.svdvals(together[length - lag - start])
            directions = int(((sigma >= 0.01 * sigma[0]) & (sigma > 0)).sum())
        empty = (jacobians == 0).flatten(1).all(1).nonzero()
        if zero_at is None and len(empty):
            zero_at = start + int(empty[-1]) + 1
        progress(length - start)
    return Products(log10_norm, directions, zero_at)

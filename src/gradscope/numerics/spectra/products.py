"""Products P_t = J_T ... J_{t+1}: their largest singular values, and the norms of the single Jacobians."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gradscope.chain import JacobianChain
from gradscope.numerics.scale import LOG10_2, normalise
from gradscope.numerics.spectra.largest import at_once, largest_singular_values

CHUNK_NUMBERS = 2**22
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Products:
    """Singular values of P_t by lag."""

    log10_norm: Tensor
    """log10 of the largest singular value of P_0 .. P_T, (T + 1); -inf where the product is exactly zero."""
    directions: int | None
    """How many singular values of the product over the lag asked for are at least 1 % of the largest; None where the
    chain is shorter than that lag."""


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
    length, size, like = chain.length, chain.size, chain.like
    counted = length - (length if lag is None else lag)
    directions, found, exponents = None if counted else size, [], []
    # The transposed product, so that each step is one pull.
    p = torch.eye(size, dtype=like.dtype, device=like.device).expand(chain.batch, -1, -1)
    e = torch.zeros(chain.batch, dtype=torch.int64, device=like.device)
    together = at_once(size, like.device, CHUNK_NUMBERS)
    for stop in range(length, 0, -together):
        kept = []
        for t in range(stop, max(0, stop - together), -1):
            p, e = normalise(chain.rmatmat(t, p), e, dims=2)
            kept.append(p[0])
            exponents.append(e[0])
            if t - 1 == counted:
                sigma = torch.linalg.svdvals(p[0].double())
                directions = int(((sigma >= 0.01 * sigma[0]) & (sigma > 0)).sum())
        matrices = kept[0][None] if len(kept) == 1 else torch.stack(kept)
        found.append(largest_singular_values(matrices.double()))
        progress(length - t + 1)
    scale = torch.stack(exponents).to("cpu", torch.float64) * LOG10_2
    logs = torch.cat(found).log10().cpu() + scale
    return Products(torch.cat([logs.flip(0), logs.new_zeros(1)]), directions)

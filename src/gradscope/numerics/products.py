"""Products P_t = J_T ... J_{t+1}: largest singular values, single steps, pairs of steps, and what is affordable."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from gradscope.chain import JacobianChain
from gradscope.numerics.logscale import LOG10_2, normalise
from gradscope.numerics.singular_values import at_once, largest_singular_values

FULL_WORK = 4e9
"""T N^3 up to which whole spectra are computed by default; beyond it, the leading `LEADING` directions."""
DENSE_NUMBERS = 2**26
"""Entries of all Jacobians together up to which they are kept at once (512 MiB)."""
LEADING = 16


def too_much(length: int, size: int) -> str:
    """Why only the leading directions of T Jacobians (N, N) are measured: the work or the memory of the whole."""
    work, numbers = length * size**3, length * size**2
    takes = f"cost T N^3 = {work:.1e} (the limit is {FULL_WORK:.0e})"
    if work <= FULL_WORK:
        takes = f"keep {8 * numbers / 2**30:.1f} GiB of Jacobians (the limit is {8 * DENSE_NUMBERS / 2**30:.1f})"
    what = f"whole spectra of a state of {size} over {length} steps would {takes}"
    return f"{what}, so only the leading {LEADING} directions are measured"


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


WORK = 1.6e8
"""Numbers of all matrices together, times their size: what the blocks of a map may cost."""
MOST, LEAST = 32, 8


def step_pairs(chain: JacobianChain) -> dict[str, Any]:
    """log10 ||J_t ... J_{u+1}|| between the ends of at most `MOST` blocks of equal length.

    Returns:
        `step`, the B + 1 edges of the blocks, from the first full state to T, and `log10_norm`, B rows: row i holds,
        for j = 0 .. i, the norm of the product from edge j to edge i + 1. Products that are exactly zero give -inf.
    """
    blocks = min(chain.length, max(LEAST, min(MOST, math.isqrt(int(2 * WORK / max(1, chain.size) ** 3)))))
    edges = [round(i * chain.length / blocks) for i in range(blocks + 1)]
    pairs = [_product(chain, start, stop) for start, stop in pairwise(edges)]
    steps = torch.stack([product for product, _ in pairs])
    scales = torch.tensor([scale for _, scale in pairs], dtype=torch.float64)
    norms = torch.full((blocks, blocks), -math.inf, dtype=torch.float64)
    running, logs = steps.clone(), scales.clone()
    for distance in range(blocks):
        if distance:
            running, logs = _normalised(steps[distance:] @ running[:-1], scales[distance:] + logs[:-1])
        found = largest_singular_values(running).cpu().log10() + logs
        norms[range(distance, blocks), range(blocks - distance)] = found
    return {
        "step": [chain.begins + edge for edge in edges],
        "log10_norm": [norms[i, : i + 1].tolist() for i in range(blocks)],
    }


def _product(chain: JacobianChain, start: int, stop: int) -> tuple[Tensor, float]:
    """J_stop ... J_{start+1} of the first sequence with its largest entry at 1, and the log10 of what was taken out."""
    jacobians = chain.dense(start, stop)[0].double()
    products, scales = _normalised(jacobians, torch.zeros(len(jacobians), dtype=torch.float64))
    while len(products) > 1:
        even = len(products) // 2 * 2
        later, earlier = products[1:even:2], products[:even:2]
        joined, logs = _normalised(later @ earlier, scales[1:even:2] + scales[:even:2])
        products, scales = torch.cat([joined, products[even:]]), torch.cat([logs, scales[even:]])
    return products[0], float(scales[0])


def _normalised(matrices: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """Matrices (n, N, N) with their largest entry at 1, and log10 scales (n); zero stays zero, with scale -inf."""
    largest = matrices.abs().amax((1, 2))
    divisor = torch.where(largest > 0, largest, torch.ones_like(largest))
    return matrices / divisor[:, None, None], scales + largest.cpu().log10()

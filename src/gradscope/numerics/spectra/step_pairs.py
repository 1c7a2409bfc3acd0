"""Norms of the Jacobian between every two of some steps, ||ds_t/ds_u||: what one state still means to another."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from gradscope.chain import JacobianChain
from gradscope.numerics.spectra.largest import largest_singular_values

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

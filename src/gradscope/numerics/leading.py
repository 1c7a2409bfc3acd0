"""The leading singular values of long products of large Jacobians, without ever forming a product.

Orthogonal iteration on P^T P: a thin frame V is pushed through the chain with a QR factorisation at every step, then
pulled back through the transposes. The triangular factors of a push are P V in the new frame: their singular values
are the best that V allows (Rayleigh-Ritz). Two passes a round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gradscope.chain import JacobianChain
from gradscope.numerics.spectrum import triangular_spectra

MOST_ROUNDS = 12
SETTLED = 1e-4
SPARE = 8
"""Directions carried beyond those asked for: the last ones of a frame converge slowly."""


@dataclass(frozen=True)
class Leading:
    """By lag: ln of the leading singular values, largest first (lags, k), and by how much the last round moved them."""

    lag: list[int]
    ln_sigma: Tensor
    residual: Tensor


def leading_spectra(
    chain: JacobianChain, lags: list[int], count: int, progress: Callable[[int, int], None] = lambda done, of: None
) -> Leading:
    """Leading `count` singular values of the products over the last `lag` steps of sequence 0."""
    count, width = min(count, chain.size), min(count + SPARE, chain.size)
    probe = chain.dense(0, 1)
    start = torch.randn(chain.size, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    start = torch.linalg.qr(start).Q.to(probe.device, probe.dtype)[None].expand(chain.batch, -1, -1)
    found, moved = [], []
    for place, lag in enumerate(lags):
        frame, previous = start, None
        for _ in range(MOST_ROUNDS):
            frame, upper = _pass(chain.matmat, frame, range(chain.length - lag + 1, chain.length + 1))
            logs = triangular_spectra([upper])[0]
            residual = torch.full_like(logs, torch.inf) if previous is None else (logs - previous).abs()
            if bool((residual[:count] < SETTLED).all()):
                break
            previous = logs
            frame, _ = _pass(chain.rmatmat, frame, range(chain.length, chain.length - lag, -1))
        found.append(logs[:count])
        moved.append(residual[:count])
        progress(place + 1, len(lags))
    return Leading(lags, torch.stack(found), torch.stack(moved))


def _pass(apply: Callable[[int, Tensor], Tensor], frame: Tensor, steps: range) -> tuple[Tensor, list[Tensor]]:
    """Carry a frame through the steps; returns it, orthonormal, and the triangular factors of sequence 0."""
    upper = []
    for t in steps:
        frame, r = torch.linalg.qr(apply(t, frame))
        upper.append(r[0].to("cpu", torch.float64))
    return frame, upper

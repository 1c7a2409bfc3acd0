"""The leading singular values of long products of large Jacobians, without ever forming a product.

Orthogonal iteration on P^T P: a thin frame is pushed through the chain with a QR factorisation at every step, then
pulled back through the transposes; the summed ln |diag R| converge to ln sigma. Two passes a round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gradscope.chain import JacobianChain

ROUNDS = 3


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
    count = min(count, chain.size)
    probe = chain.dense(0, 1)
    start = torch.randn(chain.size, count, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    start = torch.linalg.qr(start).Q.to(probe.device, probe.dtype)[None].expand(chain.batch, -1, -1)
    found, moved = [], []
    total, done = 2 * ROUNDS * sum(lags), 0
    for lag in lags:
        frame, previous = start, None
        for _ in range(ROUNDS):
            frame, _forward = _pass(chain.matmat, frame, range(chain.length - lag + 1, chain.length + 1))
            frame, logs = _pass(chain.rmatmat, frame, range(chain.length, chain.length - lag, -1))
            done += 2 * lag
            progress(done, total)
            residual = torch.full_like(logs, torch.inf) if previous is None else (logs - previous).abs()
            previous = logs
        order = logs.argsort(descending=True)
        found.append(logs[order])
        moved.append(residual[order])
    return Leading(lags, torch.stack(found), torch.stack(moved))


def _pass(apply: Callable[[int, Tensor], Tensor], frame: Tensor, steps: range) -> tuple[Tensor, Tensor]:
    """Carry a frame through the steps; returns it, orthonormal, and the summed ln |diag R| of sequence 0."""
    logs = torch.zeros(frame.shape[-1], dtype=torch.float64)
    for t in steps:
        frame, r = torch.linalg.qr(apply(t, frame))
        logs += r[0].diagonal().double().abs().log().cpu()
    return frame, logs

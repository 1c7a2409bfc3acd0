"""Lyapunov exponents by QR (Benettin et al. 1980): the mean growth rates of an orthonormal frame carried along."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradscope.chain import JacobianChain
from gradscope.numerics.products import Progress
from gradscope.numerics.scale import log10_norm, normalise


@dataclass(frozen=True)
class Exponents:
    """Growth of each frame vector at each step."""

    log_growth: Tensor
    """ln |R_ii| of every step, (T, k)."""

    @property
    def mean(self) -> Tensor:
        """Exponents in nats per step, largest first, (k)."""
        return self.log_growth.mean(0).sort(descending=True).values


def lyapunov(chain: JacobianChain, count: int | None = None, progress: Progress = lambda done: None) -> Exponents:
    """The leading `count` exponents (all when absent) of sequence 0.

    The frame is re-orthogonalised at every step, so no condition number builds up between factorisations. A direction
    that a Jacobian kills has growth -inf from there on.
    """
    size = chain.size
    like = chain.like
    q = torch.eye(size, count or size, dtype=like.dtype, device=like.device).expand(chain.batch, -1, -1)
    growth = []
    for t in range(1, chain.length + 1):
        q, r = torch.linalg.qr(chain.matmat(t, q))
        growth.append(r[0].diagonal().double())
        if t % 1000 == 0:
            progress(t)
    return Exponents(torch.stack(growth).abs().log().cpu())


def adjoint_profile(chain: JacobianChain, v: Tensor) -> Tensor:
    """log10 ||dL/ds_{T-k}|| for k = 0 .. T of a bare chain whose loss is <v, s_T>, (batch, T + 1)."""
    a, e = normalise(v.to(chain.like).expand(chain.batch, -1))
    found = [log10_norm(a, e)]
    for t in range(chain.length, 0, -1):
        a, e = normalise(chain.rmatmat(t, a[..., None])[..., 0], e)
        found.append(log10_norm(a, e))
    return torch.stack(found, 1)

"""The largest singular value of many matrices at once, without decomposing any of them.

Golub-Kahan bidiagonalisation with full re-orthogonalisation (Golub & Van Loan, Matrix Computations, section 10.4): a
few products with A and A^T bring the largest singular value to rounding, the sooner the further it stands out, as it
does in long products.
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALL = 128
"""Size up to which a plain decomposition is as quick."""
MOST_STEPS = 96
CHECK_EVERY = 6
SETTLED = 1e-9
EXHAUSTED = 1e-13


def largest_singular_values(matrices: Tensor) -> Tensor:
    """sigma_1 of every matrix, (n,), for finite matrices (n, N, N) in float64; decomposed where they do not settle."""
    size = matrices.shape[-1]
    if size <= SMALL:
        return _decomposed(matrices)
    found, settled = _bidiagonal(matrices)
    if not bool(settled.all()):
        found[~settled] = _decomposed(matrices[~settled])
    return found


def _decomposed(matrices: Tensor) -> Tensor:
    first: Tensor = torch.linalg.svdvals(matrices)[:, 0]
    return first


def _bidiagonal(a: Tensor) -> tuple[Tensor, Tensor]:
    """sigma_1 and whether its residual is below `SETTLED` of it, both (n,)."""
    n, size = a.shape[:2]
    start = torch.randn(size, dtype=a.dtype, generator=torch.Generator().manual_seed(0)).to(a.device)
    v = torch.nn.functional.normalize(a.mT @ (a @ start)[..., None], dim=1)
    u, alpha = _unit(a @ v, torch.zeros_like(v[:, 0, 0]))
    least = EXHAUSTED * alpha
    lefts, rights, alphas, betas = u, v, [alpha], []
    sigma, settled = alpha, torch.zeros(n, dtype=torch.bool, device=a.device)
    for step in range(1, min(MOST_STEPS, size)):
        v, beta = _unit(_orthogonal(a.mT @ u - alphas[-1][:, None, None] * v, rights), least)
        betas.append(beta)
        if step % CHECK_EVERY == 0 or step == min(MOST_STEPS, size) - 1:
            sigma, settled = _ritz(alphas, betas)
            if bool(settled.all()):
                break
        rights = torch.cat([rights, v], -1)
        u, alpha = _unit(_orthogonal(a @ v - beta[:, None, None] * u, lefts), least)
        lefts = torch.cat([lefts, u], -1)
        alphas.append(alpha)
    return sigma, settled


def _orthogonal(vector: Tensor, basis: Tensor) -> Tensor:
    return vector - basis @ (basis.mT @ vector)


def _unit(vector: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors (n, N, 1) and the norms (n,); what is not above `least` is nothing but rounding, and zero."""
    norm = torch.linalg.vector_norm(vector, dim=(1, 2))
    kept = norm > least
    scale = torch.where(kept, 1 / torch.where(kept, norm, torch.ones_like(norm)), torch.zeros_like(norm))
    return vector * scale[:, None, None], torch.where(kept, norm, torch.zeros_like(norm))


def _ritz(alphas: list[Tensor], betas: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The largest singular value of the bidiagonal matrix, and whether its residual is negligible."""
    diagonal, above = torch.stack(alphas, -1), torch.stack(betas, -1)
    b = torch.diag_embed(diagonal) + torch.diag_embed(above[:, : diagonal.shape[1] - 1], 1)
    u, sigma, _ = torch.linalg.svd(b)
    residual = above[:, -1] * u[:, -1, 0].abs()
    return sigma[:, 0], residual <= SETTLED * sigma[:, 0]

"""The largest singular value of many matrices without decomposing any of them.

Golub-Kahan bidiagonalisation with full re-orthogonalisation (Golub & Van Loan, Matrix Computations, section 10.4): a
few products with A and A^T bring the largest singular value to rounding, the sooner the further it stands out, as it
does in long products. Started from the singular vector of a neighbouring product, it is there sooner still.
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALL = 128
"""Size up to which a plain decomposition is as quick."""
MOST_STEPS = 96
CHECK_EVERY = 4
SETTLED = 1e-9
"""Residual, beside the singular value, at which it counts as found; its own error is the square of that over the gap
to the next one, and never more than the residual."""
EXHAUSTED = 1e-13


def at_once(size: int, device: torch.device, numbers: int) -> int:
    """How many matrices to hand over at a time: on a CPU each while it is still in the cache, elsewhere `numbers`."""
    return 1 if device.type == "cpu" and size > SMALL else max(1, numbers // size**2)


def largest_singular_values(matrices: Tensor, start: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """sigma_1 of finite matrices (n, N, N) in float64, (n); decomposed where they do not settle.

    Args:
        matrices: the matrices.
        start: a vector (N) near the first right singular vectors; a random one when absent.

    Returns:
        The values, and the right singular vector of the last matrix (N); None where none was needed.
    """
    if matrices.shape[-1] <= SMALL:
        return _decomposed(matrices), None
    found, settled, right = _bidiagonal(matrices, _random(matrices) if start is None else start)
    if not bool(settled.all()):
        found[~settled] = _decomposed(matrices[~settled])
    return found, right


def _decomposed(matrices: Tensor) -> Tensor:
    first: Tensor = torch.linalg.svdvals(matrices)[:, 0]
    return first


def _random(like: Tensor) -> Tensor:
    drawn = torch.randn(like.shape[-1], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    unit: Tensor = drawn / drawn.norm()
    return unit.to(like)


def _bidiagonal(a: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """sigma_1 and whether its residual is below `SETTLED` of it, both (n,), and the last right singular vector (N)."""
    n, size = a.shape[:2]
    most = min(MOST_STEPS, size)
    lefts, rights = a.new_zeros(n, most, size), a.new_zeros(n, most, size)
    alphas, betas = a.new_zeros(n, most), a.new_zeros(n, most)
    rights[:, 0] = start
    u, alphas[:, 0] = _unit(_apply(a, rights[:, 0]), None)
    lefts[:, 0] = u
    least = EXHAUSTED * alphas[:, 0]
    for k in range(1, most):
        v = _apply(a.mT, lefts[:, k - 1]) - alphas[:, k - 1, None] * rights[:, k - 1]
        rights[:, k], betas[:, k] = _unit(_orthogonal(v, rights[:, :k]), least)
        if k % CHECK_EVERY == 0 or k == most - 1:
            sigma, settled, ritz = _ritz(alphas[:, :k], betas[:, 1 : k + 1])
            if bool(settled.all()) or k == most - 1:
                break
        u = _apply(a, rights[:, k]) - betas[:, k, None] * lefts[:, k - 1]
        lefts[:, k], alphas[:, k] = _unit(_orthogonal(u, lefts[:, :k]), least)
    return sigma, settled, ritz[-1] @ rights[-1, :k]


def _apply(a: Tensor, vectors: Tensor) -> Tensor:
    """One matrix and vector at a time where there is one: batched products with single vectors are slow on a CPU."""
    if len(a) == 1:
        return (a[0] @ vectors[0])[None]
    return (a @ vectors[..., None])[..., 0]


def _orthogonal(vectors: Tensor, basis: Tensor) -> Tensor:
    """Without what lies along the rows of the basis, (n, N)."""
    if len(basis) == 1:
        return vectors - ((basis[0] @ vectors[0]) @ basis[0])[None]
    return vectors - ((basis @ vectors[..., None]).mT @ basis)[:, 0]


def _unit(vectors: Tensor, least: Tensor | None) -> tuple[Tensor, Tensor]:
    """Unit vectors (n, N) and their norms (n,); what is not above `least` is nothing but rounding, and zero."""
    norm = torch.linalg.vector_norm(vectors, dim=-1)
    kept = norm > (0.0 if least is None else least)
    scale = torch.where(kept, norm.reciprocal(), 0.0)
    return vectors * scale[:, None], torch.where(kept, norm, 0.0)


def _ritz(alphas: Tensor, betas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The largest singular value of the bidiagonal matrix, whether its residual is negligible, its right vector."""
    b = torch.diag_embed(alphas) + torch.diag_embed(betas[:, :-1], 1)
    u, sigma, vh = torch.linalg.svd(b)
    residual = betas[:, -1] * u[:, -1, 0].abs()
    return sigma[:, 0], residual <= SETTLED * sigma[:, 0], vh[:, 0]

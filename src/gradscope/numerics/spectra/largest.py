"""The largest singular value of many matrices without decomposing any of them.

Golub-Kahan bidiagonalisation (Golub & Van Loan, Matrix Computations, section 10.4): a few products with A and A^T bring
the largest singular value to rounding, the sooner the further it stands out. Vectors are not kept orthogonal by hand:
they lose that only once a value has converged, and the largest is the first to do so (Paige 1976). Every search starts
from a random vector: the singular vector of a neighbouring product would save nothing, and never leave its block where
units do not hear of each other.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SMALL = 128
"""Size up to which a plain decomposition is as quick."""
MOST_STEPS = 96
CHECK_EVERY = 4
SETTLED = 1e-12
"""Error, beside the singular value, at which it counts as found: the square of the residual over the gap to the next
one, and never more than the residual (Parlett, The Symmetric Eigenvalue Problem, section 11.7)."""
EXHAUSTED = 1e-13

Values = NDArray[np.float64]


def at_once(size: int, device: torch.device, numbers: int) -> int:
    """How many matrices to hand over at a time: on a CPU each while it is still in the cache, elsewhere `numbers`."""
    return 1 if device.type == "cpu" and size > SMALL else max(1, numbers // size**2)


def largest_singular_values(matrices: Tensor) -> Tensor:
    """sigma_1 of finite matrices (n, N, N) in float64, (n); decomposed where they do not settle.

    Their entries are squared on the way: the largest of each is to be of order one. Where the two largest values lie
    within 1e-6 of each other, the one is right to about 1e-7; otherwise to 1e-12.
    """
    if matrices.shape[-1] <= SMALL:
        return _decomposed(matrices)
    found, settled = _bidiagonal(matrices)
    if not bool(settled.all()):
        found[~settled] = _decomposed(matrices[~settled])
    return found


def _decomposed(matrices: Tensor) -> Tensor:
    first: Tensor = torch.linalg.svdvals(matrices)[:, 0]
    return first


@cache
def _random(size: int, device: torch.device) -> Tensor:
    drawn = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    unit: Tensor = drawn / drawn.norm()
    return unit.to(device)


def _bidiagonal(a: Tensor) -> tuple[Tensor, Tensor]:
    """sigma_1 and whether it is settled, both (n,)."""
    n, size = a.shape[:2]
    most, tiny = min(MOST_STEPS, size), torch.finfo(a.dtype).tiny
    right = _random(size, a.device).expand(n, -1)
    left, first = _unit(_apply(a, right), a.new_tensor(tiny))
    least, alphas, betas = (EXHAUSTED * first).clamp_min(tiny), [first], []
    for k in range(1, most):
        right, beta = _unit(torch.addcmul(_apply(a.mT, left), alphas[-1], right, value=-1.0), least)
        betas.append(beta)
        if k % CHECK_EVERY == 0 or k == most - 1:
            sigma, settled = _ritz(alphas, betas)
            if settled.all():
                break
        left, alpha = _unit(torch.addcmul(_apply(a, right), beta, left, value=-1.0), least)
        alphas.append(alpha)
    return torch.from_numpy(sigma).to(a), torch.from_numpy(settled).to(a.device)


def _apply(a: Tensor, vectors: Tensor) -> Tensor:
    """One matrix and vector at a time where there is one: batched products with single vectors are slow on a CPU."""
    return (a[0] @ vectors[0])[None] if len(a) == 1 else (a @ vectors[..., None])[..., 0]


def _unit(vectors: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors (n, N) and their norms (n, 1); what is below `least` is nothing but rounding, and stays small."""
    norm = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / norm.clamp_min(least), norm


def _ritz(alphas: list[Tensor], betas: list[Tensor]) -> tuple[Values, NDArray[np.bool_]]:
    """The largest singular values of the bidiagonal matrices, and whether they are settled."""
    diagonal, above = (torch.cat(parts, -1).cpu().numpy() for parts in (alphas, betas))
    k = diagonal.shape[-1]
    b = np.zeros((len(diagonal), k, k))
    b[:, range(k), range(k)] = diagonal
    b[:, range(k - 1), range(1, k)] = above[:, :-1]
    squares, left = np.linalg.eigh(b @ b.swapaxes(1, 2))
    first, second = np.sqrt(squares[:, -1]), np.sqrt(np.maximum(squares[:, -2], 0.0))
    residual = above[:, -1] * np.abs(left[:, -1, -1])
    error = residual * np.minimum(1.0, residual / np.maximum(first - second, np.finfo(np.float64).tiny))
    return first, error <= SETTLED * first

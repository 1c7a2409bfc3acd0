"""Singular values of graded matrices by one-sided Jacobi, and the largest of many matrices without decomposition.

Singular values of a matrix whose rows lie any number of orders of magnitude apart.
The matrix is held as rows u_i with a power of two e_i beside each, T = diag(2^e) U. When U is well conditioned, every
singular value of such a T is determined to high relative accuracy, and one-sided Jacobi finds it (Demmel & Veselic
1992). Before the rotations, the matrix is brought near diagonal by LQ steps on T and its transpose in turn, as
Drmac & Veselic (2008) do; both work on ratios 2^{e_i - e_j} alone, so nothing over- or underflows.

The largest singular value of many matrices without decomposing any of them.
Golub-Kahan bidiagonalisation (Golub & Van Loan, Matrix Computations, section 10.4): a few products with A and A^T bring
the largest singular value to rounding, the sooner the further it stands out. Vectors are not kept orthogonal by hand:
they lose that only once a value has converged, and the largest is the first to do so (Paige 1976). Every search starts
from a random vector: the singular vector of a neighbouring product would save nothing, and never leave its block where
units do not hear of each other.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradscope.numerics.logscale import normalise

ORTHOGONAL = 1e-13
MOST_LQ_STEPS = 40
FEW_DISTANCES = 8
NARROW = 10
"""Powers of two between the largest and smallest row up to which an ordinary SVD is as exact, to about 1e-12."""
MOST_SWEEPS = 40


def log_singular_values(rows: Tensor, exponents: Tensor) -> Tensor:
    """Natural logs of the singular values of diag(2^exponents) rows, largest first, (batch, N); -inf for zero rows.

    Args:
        rows: (batch, N, N), each row at most of order one.
        exponents: powers of two, (batch, N).
    """
    u, e = _sorted(rows, exponents)
    narrow = e.amax(-1) - e.amin(-1) <= NARROW
    found = torch.empty(e.shape, dtype=torch.float64)
    if bool(narrow.any()):
        found[narrow] = _ordinary(u[narrow], e[narrow])
    if not bool(narrow.all()):
        found[~narrow] = _graded(u[~narrow], e[~narrow])
    ordered: Tensor = torch.sort(found, dim=-1, descending=True).values
    return ordered


def _ordinary(u: Tensor, e: Tensor) -> Tensor:
    """Natural logs of the singular values of matrices that one SVD resolves."""
    top = e.amax(-1, keepdim=True)
    rows = torch.ldexp(u, (e - top).to(torch.int32)[..., None])
    logs: Tensor = torch.linalg.svdvals(rows).log()
    return logs + top.double() * math.log(2.0)


def _graded(u: Tensor, e: Tensor) -> Tensor:
    """Natural logs of the singular values of rows of very different size, sorted by it."""
    for _ in range(MOST_LQ_STEPS):
        u, e = _sorted(*_lq_step(u, e))
        # A rotation round costs about as much as an LQ step; a few distances are cheaper to rotate away.
        if len(_oblique(u)) <= FEW_DISTANCES:
            break
    for _ in range(MOST_SWEEPS):
        distances = _oblique(u)
        if not distances:
            break
        for distance in distances:
            for first in _disjoint(distance, u.shape[-1]):
                u, e = _rotate(u, e, first, first + distance)
    return u.square().sum(-1).sqrt().log() + e.double() * math.log(2.0)


def _sorted(u: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of order one, the largest first, zero rows last."""
    u, e = normalise(u, e)
    e = torch.where((u != 0).any(-1), e, torch.full_like(e, -(2**40)))
    e, order = e.sort(dim=-1, descending=True, stable=True)
    return u.gather(-2, order[..., None].expand_as(u)), e


def _lq_step(u: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    """D U = D L Q = (D L D^-1) D Q; the transpose of (D L D^-1) D has the same singular values and the same form."""
    lower = torch.linalg.qr(u.mT).R.mT
    ratio = (e[..., :, None] - e[..., None, :]).clamp(-1000, 0).to(torch.int32)
    return torch.ldexp(lower, ratio).mT, e


def _oblique(u: Tensor) -> list[int]:
    """Distances |p - q| at which some pair of rows is not orthogonal yet, the nearest first."""
    unit = torch.nn.functional.normalize(u, dim=-1)
    cosines = (unit @ unit.mT).abs().amax(0)
    return [d for d in range(1, u.shape[-1]) if float(cosines.diagonal(d).max()) > ORTHOGONAL]


def _disjoint(distance: int, size: int) -> list[Tensor]:
    """First rows p of all pairs (p, p + distance), in two rounds of pairs that share no row."""
    rows = torch.arange(size - distance)
    even = rows // distance % 2 == 0
    return [part for part in (rows[even], rows[~even]) if len(part)]


def _rotate(u: Tensor, e: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Make the rows of each pair orthogonal.

    With rho = 2^{e_q - e_p} <= 1 for the larger row p, the tangent of the angle is rho tau; where rho underflows, the
    rotation turns into a Gram-Schmidt step on the smaller row.
    """
    swap = e[:, second] > e[:, first]
    p, q = torch.where(swap, second, first), torch.where(swap, first, second)
    at_p, at_q = p[..., None].expand(*p.shape, u.shape[-1]), q[..., None].expand(*q.shape, u.shape[-1])
    up, uq, ep, eq = u.gather(1, at_p), u.gather(1, at_q), e.gather(1, p), e.gather(1, q)
    rho = torch.ldexp(torch.ones_like(up[..., 0]), (eq - ep).clamp_min(-1000).to(torch.int32))
    a, b, g = up.square().sum(-1), uq.square().sum(-1), (up * uq).sum(-1)
    # z = rho zeta of the usual zeta = (|r_q|^2 - |r_p|^2) / (2 <r_p, r_q>).
    z = (rho.square() * b - a) / (2 * g)
    tau = torch.where(z < 0, -1.0, 1.0) / (z.abs() + (rho.square() + z.square()).sqrt())
    tau = torch.where(g == 0, torch.zeros_like(tau), tau)[..., None]
    rho = rho[..., None]
    cosine = (1 + (rho * tau).square()).rsqrt()
    vp, dp = normalise(cosine * (up - rho.square() * tau * uq), ep)
    vq, dq = normalise(cosine * (tau * up + uq), eq)
    u = u.scatter(1, at_p, vp).scatter(1, at_q, vq)
    return u, e.scatter(1, p, dp).scatter(1, q, dq)


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

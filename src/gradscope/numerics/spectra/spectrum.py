"""Whole singular spectra of long products, far beyond the condition number that one matrix can hold.

A product A = F_n ... F_1 is never multiplied out. A QR sweep, F_i Q_{i-1} = Q_i R_i, leaves A = Q_n R_n ... R_1 with
triangular factors; a sweep over their transposes in reverse order leaves rows that fall off from the largest singular
value to the smallest (the QR iteration for A A^T held in factors; Oliveira & Stewart 2000). The triangular product of
the last sweep is then formed row by row, each row with an exponent of its own, and `jacobi` reads the singular values
off it to the accuracy of each value, not of the largest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from gradscope.chain import JacobianChain
from gradscope.numerics.scale import normalise
from gradscope.numerics.spectra.singular_values import log_singular_values

MOST_SWEEPS = 6
SAFE_CONDITION = 1e4
GRADED = 40
"""Powers of two by which a lower row may exceed one above it before another sweep is made."""


@dataclass(frozen=True)
class Spectrum:
    """ln sigma of one product, largest first, and which of them double precision determines."""

    ln_sigma: Tensor
    resolved: Tensor


@dataclass(frozen=True)
class Rows:
    """A product of triangular factors, row by row: m (N, N), and a power of two e (N) beside each row."""

    m: Tensor
    e: Tensor


def log_lags(length: int, steps: tuple[int, ...] = (1, 2, 5)) -> list[int]:
    """1, 2, 5, 10, 20, 50 ... (or only the decades, steps=(1,)) and `length` itself."""
    series = [base * 10**power for power in range(8) for base in steps]
    return [lag for lag in series if lag < length] + [length]


def spectra(chain: JacobianChain, lags: list[int], ln_sigma: Tensor | None = None) -> list[Spectrum]:
    """Spectra of the products over the last `lag` steps of sequence 0, for every lag asked for.

    Args:
        chain: the Jacobians.
        lags: how many of the newest steps to multiply.
        ln_sigma: ln of the singular values of every J_t, (T, N), where they are known already.
    """
    longest = max(lags)
    jacobians = chain.dense(chain.length - longest, chain.length)[0].to("cpu", torch.float64)
    known = None if ln_sigma is None else ln_sigma[chain.length - longest :].flip(0)
    return product_spectra(jacobians.flip(0).mT, lags, known)


def product_spectra(factors: Tensor, counts: list[int], ln_sigma: Tensor | None = None) -> list[Spectrum]:
    """Singular values of F_n ... F_1 for several n, given F (n, N, N), float64 and finite.

    A value is unresolved when it stems from factors so close to singular (condition above 1e12) that the rounding of
    the input decides it.
    """
    if ln_sigma is None:
        ln_sigma = torch.linalg.svdvals(factors).log()
    condition = ln_sigma[:, 0] - ln_sigma[:, -1]
    groups = _groups(condition.nan_to_num(posinf=math.inf, nan=math.inf).tolist(), counts)
    m, e = normalise(factors, dims=2)
    whole = [_multiply_out(m[start:stop]) for start, stop in groups]
    # The first sweep over the longest product is the first sweep of all shorter ones too.
    first = _qr_sweep([product for product, _ in whole])
    ends = {stop: place + 1 for place, (_, stop) in enumerate(groups)}
    scales = e.cumsum(0)[[count - 1 for count in counts]] + torch.stack(
        [torch.stack([scale for _, scale in whole[: ends[count]]]).sum() for count in counts]
    )
    logs = _triangular_spectra([first[: ends[count]] for count in counts]) + scales.double()[:, None] * math.log(2)
    fragile = ~(ln_sigma - ln_sigma[:, :1] > math.log(1e-12))
    return [Spectrum(ln, ~fragile[:count].any(0)) for ln, count in zip(logs, counts, strict=True)]


def _groups(ln_condition: list[float], ends: list[int]) -> list[tuple[int, int]]:
    """(start, stop) of factors that may be multiplied before they are factorised.

    A group grows while the product of the conditions stays below `SAFE_CONDITION`, so that no singular value loses
    more than rounding times that; it ends where one of `ends` asks for a product.
    """
    wanted, groups, start, total = set(ends), [], 0, 0.0
    for place, condition in enumerate(ln_condition):
        if place > start and total + condition > math.log(SAFE_CONDITION):
            groups.append((start, place))
            start, total = place, 0.0
        total += condition
        if place + 1 in wanted:
            groups.append((start, place + 1))
            start, total = place + 1, 0.0
    return groups


def _multiply_out(factors: Tensor) -> tuple[Tensor, Tensor]:
    """The product of factors near one in size, and the power of two beside it."""
    product, e = normalise(factors[0], dims=2)
    for factor in factors[1:]:
        product, e = normalise(factor @ product, e, dims=2)
    return product, e


def _triangular_spectra(products: list[list[Tensor]]) -> Tensor:
    """Natural logs of the singular values of products R_n ... R_1 of triangular factors, (products, N)."""
    graded = [_graded_rows(upper) for upper in products]
    return log_singular_values(torch.stack([rows.m for rows in graded]), torch.stack([rows.e for rows in graded]))


def _qr_sweep(factors: list[Tensor]) -> list[Tensor]:
    """Triangular R_1 .. R_n with F_n ... F_1 = Q R_n ... R_1."""
    q, upper = None, []
    for factor in factors:
        q, r = torch.linalg.qr(factor if q is None else factor @ q)
        upper.append(r)
    return upper


def _graded_rows(upper: list[Tensor]) -> Rows:
    """The triangular product after as many sweeps as grading its rows takes."""
    for _ in range(MOST_SWEEPS):
        upper = _qr_sweep([r.mT for r in reversed(upper)])
        rows = multiplied(upper)
        rise = rows.e[None, :] - rows.e[:, None]
        if int(rise.triu(1).max()) <= GRADED:
            break
    return rows


def multiplied(upper: Iterable[Tensor], before: Rows | None = None) -> Rows:
    """R_n ... R_1, and on the right of them the product of what came before."""
    rows = before
    for r in upper:
        if rows is None:
            rows = Rows(*normalise(r))
            continue
        # Row p of the product is the sum over q >= p of R[p, q] 2^(e_q - e_p) rows[q], with e_p restored afterwards.
        ratio = torch.ldexp(r, (rows.e[None, :] - rows.e[:, None]).clamp(-1000, 1000).triu())
        rows = Rows(*normalise(ratio @ rows.m, rows.e))
    assert rows is not None
    return rows

"""Singular spectra of long products of Jacobians: whole ones, and the leading values where states are large.

Whole singular spectra of long products, far beyond the condition number that one matrix can hold.
A product A = F_n ... F_1 is never multiplied out. A QR sweep, F_i Q_{i-1} = Q_i R_i, leaves A = Q_n R_n ... R_1 with
triangular factors; a sweep over their transposes in reverse order leaves rows that fall off from the largest singular
value to the smallest (the QR iteration for A A^T held in factors; Oliveira & Stewart 2000). The triangular product of
the last sweep is then formed row by row, each row with an exponent of its own, and `jacobi` reads the singular values
off it to the accuracy of each value, not of the largest.

The leading singular values of long products of large Jacobians, without ever forming a product.
Orthogonal iteration on P^T P: a thin frame is pushed through the chain, factorised by QR as often as its condition
asks, and pulled back through the transposes. The triangular factors of a pass are the product seen from the frame it
started from: their singular values are the best that this frame allows (Rayleigh-Ritz), and each further pass squares
what is missing. Near products are formed, where one matrix is affordable. The left singular vectors of a product
depend on its newest steps most, so those of the last near one serve all far lags: one pull over the whole chain passes
every far lag, and pushes back from each refine it and show by how much it was off. Random directions travel with them:
where units do not hear of each other, those that lead at far lags may be exactly absent from what led at near ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from gradscope.chain import Backwards, JacobianChain
from gradscope.numerics.frame import carry, random_frame
from gradscope.numerics.logscale import normalise
from gradscope.numerics.singular_values import log_singular_values

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


NEAR = 100
"""Lags up to which products are formed as matrices: nearer spectra are too flat for iteration to settle."""
MOST_ROUNDS = 8
SETTLED = 1e-4
ENOUGH = 5e-4
"""Change, in ln, of a leading value at a far lag below which no further pull and push is made."""
SPARE = 48
"""Directions carried beyond those asked for: the last ones of a frame converge slowly."""
FRESH = 24
"""How many of the directions carried to far lags are random ones."""
TOGETHER = 256
"""Steps whose triangular factors are kept at a time."""
FORMED = 1024
"""State size up to which near products are formed as matrices."""

Progress = Callable[[int, int], None]
Values = tuple[Tensor, Tensor]
"""ln of the leading singular values, and by how much the last pass moved them."""


@dataclass(frozen=True)
class Leading:
    """By lag: ln of the leading singular values, largest first (lags, k), and by how much the last pass moved them."""

    lag: list[int]
    ln_sigma: Tensor
    residual: Tensor
    start: Tensor | None = None
    """Directions of s_0 that grow fastest over all steps, (batch, size, k); None where the longest lag is not T."""


def leading_spectra(
    chain: JacobianChain, lags: list[int], count: int, progress: Progress = lambda done, of: None
) -> Leading:
    """Leading `count` singular values of the products over the last `lag` steps of sequence 0, lags ascending."""
    count, width = min(count, chain.size), min(count + SPARE, chain.size)
    near = [lag for lag in lags if lag <= NEAR] or lags[:1]
    if chain.size <= FORMED and near[-1] <= NEAR:
        left, found = _formed(chain, near, width)
    else:
        left, found = _iterated(chain, near, width, count)
    found = [(ln[:count], moved[:count]) for ln, moved in found]
    start = None
    if far := lags[len(near) :]:
        more, frame = _far(chain, far, left, count, progress)
        found += more
        start = frame[..., :count] if far[-1] == chain.length else None
    ln, moved = zip(*found, strict=True)
    return Leading(lags, torch.stack(ln), torch.stack(moved), start)


def _formed(chain: JacobianChain, lags: list[int], width: int) -> tuple[Tensor, list[Values]]:
    """Exact leading values of near products, and the left frame of the last."""
    like = chain.like
    # Rows of P^T: the identity pulled back, all of it.
    p = torch.eye(chain.size, dtype=like.dtype, device=like.device).expand(chain.batch, -1, -1)
    e, found, left = torch.zeros((), dtype=torch.int64, device=like.device), [], p[..., :width]
    for back in range(1, lags[-1] + 1):
        p, e = normalise(chain.rmatmat(chain.length - back + 1, p), e, dims=3)
        if back in lags:
            _, sigma, vh = torch.linalg.svd(p[0].double(), full_matrices=False)
            ln = (sigma[:width].log() + float(e) * math.log(2)).cpu()
            # A value far below the largest drowns in the rounding of the product: back * N additions, each of whose
            # errors goes either way (Higham & Mary 2019).
            rounding = torch.finfo(like.dtype).eps * math.sqrt(back * chain.size)
            found.append((ln, rounding * _gap(ln[0], ln).exp()))
            left = vh[:width].mT.to(like.dtype).expand(chain.batch, -1, -1)
    return left, found


def _iterated(chain: JacobianChain, lags: list[int], width: int, count: int) -> tuple[Tensor, list[Values]]:
    """Leading values of near products by orthogonal iteration from a random frame, and the left frame of the last."""
    left = right = random_frame(chain, width)
    found = []
    for lag in lags:
        left, values = _iterate(chain, lag, right, count)
        found.append(values)
    return left, found


def _iterate(chain: JacobianChain, lag: int, right: Tensor, count: int) -> tuple[Tensor, Values]:
    """Rounds of push and pull until the values settle; returns the left frame, the values and their last change."""
    previous: Tensor | None = None
    for _ in range(MOST_ROUNDS):
        left, product = _push(chain, lag, right)
        logs = _values(product, count)
        change = torch.full_like(logs, torch.inf) if previous is None else _gap(logs, previous)
        if bool((change < SETTLED).all()):
            break
        previous = logs
        right, _ = _pass(Backwards(chain), left, 0, lag)
    return left, (logs, change)


def _far(
    chain: JacobianChain, lags: list[int], left: Tensor, count: int, progress: Progress
) -> tuple[list[Values], Tensor]:
    """Values and their change at far lags, from one pull that passes all of them and a push or more from each.

    Also the frame that the last refining has come to: the directions at the farthest lag that grow fastest.
    """
    found: list[Values] = []
    product: Rows | None = None
    frame, reached = _refreshed(chain, left), 0
    for lag in lags:
        frame, product = _pass(Backwards(chain), frame, reached, lag, product)
        reached = lag
        # The pull goes on with its random directions: a refined frame has lost all units that do not lead here.
        values, refined = _refined(chain, lag, frame, _values(product, count), count)
        found.append(values)
        progress(lag, lags[-1])
    return found, refined


def _refreshed(chain: JacobianChain, left: Tensor) -> Tensor:
    """The frame with random directions in the place of its last ones."""
    fresh = random_frame(chain, min(FRESH, left.shape[-1] // 2))
    known = left[..., : left.shape[-1] - fresh.shape[-1]]
    frame: Tensor = torch.linalg.qr(torch.cat([known, fresh], -1)).Q
    return frame


def _refined(chain: JacobianChain, lag: int, right: Tensor, logs: Tensor, count: int) -> tuple[Values, Tensor]:
    """Pushes and pulls until the values move no more than `ENOUGH`; the values and the frame of the last pull."""
    for left in range(MOST_ROUNDS, 0, -1):
        ahead, pushed = _push(chain, lag, right)
        before, logs = logs, _values(pushed, count)
        change = _gap(logs, before)
        if left == 1 or bool((change < ENOUGH).all()):
            break
        right, _ = _pass(Backwards(chain), ahead, 0, lag)
    return (logs, change), right


def _gap(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(a == b, torch.zeros_like(a), (a - b).abs())


def _values(product: Rows, count: int) -> Tensor:
    """The leading singular values, in ln."""
    return log_singular_values(product.m[None], product.e[None])[0, :count]


def _push(chain: JacobianChain, lag: int, right: Tensor) -> tuple[Tensor, Rows]:
    return _pass(chain, right, chain.length - lag, chain.length)


def _pass(
    chain: JacobianChain, frame: Tensor, start: int, stop: int, product: Rows | None = None
) -> tuple[Tensor, Rows]:
    """Carry a frame over the steps start + 1 .. stop.

    Returns it, orthonormal, and the product of the triangular factors of sequence 0, `product` on its right.
    """
    stride = 1
    for begin in range(start, stop, TOGETHER):
        carried = carry(chain, frame, stride, begin, min(begin + TOGETHER, stop), orthonormal=True)
        frame, stride = carried.frame, carried.stride
        factors = torch.stack([one.upper for one in carried.factors if one.upper is not None])
        product = multiplied(factors.to("cpu", torch.float64), product)
    assert product is not None
    return frame, product

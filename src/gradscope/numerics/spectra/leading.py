"""The leading singular values of long products of large Jacobians, without ever forming a product.

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
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gradscope.chain import Backwards, JacobianChain
from gradscope.numerics.scale import normalise
from gradscope.numerics.spectra.carried_frame import carry, random_frame
from gradscope.numerics.spectra.singular_values import log_singular_values
from gradscope.numerics.spectra.spectrum import Rows, multiplied

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

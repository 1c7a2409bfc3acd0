"""Lyapunov exponents (Benettin et al. 1980): the mean growth rates of a frame carried along the chain."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gradscope.chain import JacobianChain
from gradscope.models.cell import Volume
from gradscope.models.stack import StackRun
from gradscope.numerics.frame import Carried, carry, log_volumes, random_frame
from gradscope.numerics.logscale import log10_norm, normalise
from gradscope.numerics.products import Progress

STRETCHES = 10
"""Growth is told for this many equal stretches of the trajectory, or a multiple of it in long ones."""
LONGEST = 32
"""Steps of a stretch, and so the most Jacobians that are multiplied between two factorisations."""
WARM = 1000
"""Steps that a frame of some columns is carried over before its growth counts."""
MOST_PASSES = 10
SETTLED = 1e-5
"""Change of the leading growth from pass to pass, in nats per step, at which the frame is taken to be aligned."""
UNCERTAIN = 1e7
"""Condition of single factors from which on the sum of all exponents is taken from the determinants."""
LOST = 1e-12
"""Growth of a direction beside that of the fastest one in the same step, below which rounding decides it."""


@dataclass(frozen=True)
class Exponents:
    """Growth of each direction of a frame, stretch by stretch."""

    growth: Tensor
    """ln of the growth over each stretch, (stretches, k); -inf where a Jacobian kills the direction."""
    steps: Tensor
    """Steps of each stretch, (stretches)."""
    resolved: Tensor
    """False for directions that double precision does not determine, (k)."""
    rank_lost_at: int | None = None
    """First step whose Jacobian kills a direction of the frame: with a whole frame, the first singular one."""

    @property
    def log_growth(self) -> Tensor:
        """Growth at every step, ln, (T, k): the mean over its stretch."""
        return (self.growth / self.steps[:, None]).repeat_interleave(self.steps, 0)

    @property
    def order(self) -> Tensor:
        """Directions by their mean growth, the fastest first, (k)."""
        return self.growth.sum(0).argsort(descending=True, stable=True)

    @property
    def mean(self) -> Tensor:
        """Exponents in nats per step, largest first, (k)."""
        return self.growth.sum(0)[self.order] / self.steps.sum()


def lyapunov(
    chain: JacobianChain,
    count: int | None = None,
    progress: Progress = lambda done: None,
    *,
    frame: Tensor | None = None,
    burn_in: int = 0,
) -> Exponents:
    """The leading `count` exponents (all when absent) of sequence 0.

    Args:
        chain: the Jacobians.
        count: how many exponents.
        progress: called with the steps that are done.
        frame: orthonormal directions of s_0 to start from, (batch, size, count): the fastest-growing ones, where they
            are known. The whole basis, or a random frame carried until its growth has settled, when absent.
        burn_in: steps that the frame is carried over before its growth counts.

    Several Jacobians are multiplied before the frame is factorised, as many as the condition that has built up in the
    last factors allows; where more builds up than that, the steps are done again in smaller groups. Where single
    Jacobians exceed it, the sum of all exponents is that of ln |det J_t|, and the last one is what the others leave.
    """
    first = _start(chain, count or chain.size) if frame is None else frame
    found: list[_Stretch] = []
    frame, stride = _warmed(chain, first, min(burn_in, chain.length - 1)), 1
    volumes = torch.zeros(frame.shape[-1], dtype=torch.float64, device=frame.device)
    begun = min(burn_in, chain.length - 1)
    for start, stop in ((begun + a, begun + b) for a, b in stretches(chain.length - begun)):
        carried = carry(chain, frame, stride, start, stop)
        frame, stride, before = carried.frame, carried.stride, volumes
        volumes = torch.zeros_like(before) if carried.factors[-1].upper is not None else log_volumes(frame)
        found.append(_measured(chain, carried, volumes - before, start, stop))
        progress(stop)
    growth = torch.stack([stretch.growth for stretch in found]).cpu()
    lost = torch.stack([stretch.lost for stretch in found]).any(0).cpu()
    first_zero = int(torch.stack([stretch.first_zero for stretch in found]).min())
    steps = torch.tensor([stretch.steps for stretch in found])
    return Exponents(growth, steps, ~lost, first_zero if first_zero <= chain.length else None)


def _warmed(chain: JacobianChain, frame: Tensor, steps: int) -> Tensor:
    """A frame after some steps, orthonormal again."""
    for start, stop in stretches(steps) if steps else ():
        frame = carry(chain, frame, 1, start, stop, orthonormal=True).frame
    return frame


def _start(chain: JacobianChain, count: int) -> Tensor:
    """The whole basis, or a random frame that has passed the first steps until its growth there has settled.

    What its columns lack of the fastest directions would be counted as slow growth, by ln(N)/2T or so.
    """
    if count == chain.size:
        return torch.eye(count, dtype=chain.like.dtype, device=chain.like.device).expand(chain.batch, -1, -1)
    frame, before, steps = random_frame(chain, count), math.inf, min(WARM, chain.length)
    for _ in range(MOST_PASSES):
        growth = 0.0
        for start, stop in stretches(steps):
            carried = carry(chain, frame, 1, start, stop)
            frame = carried.frame
            growth += float(torch.stack([one.diagonal[0] for one in carried.factors]).double().abs().log().sum())
        if not abs(growth - before) > SETTLED * steps:
            break
        before = growth
    return frame


def stretches(length: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of at most `LONGEST` steps each, so that they fall into `STRETCHES` equal parts of the whole."""
    parts = torch.arange(length).tensor_split(min(STRETCHES, length))
    for part in parts:
        for piece in part.tensor_split(math.ceil(len(part) / LONGEST)):
            yield int(piece[0]), int(piece[-1]) + 1


@dataclass(frozen=True)
class _Stretch:
    """`growth` and `lost` (k), and the first step that kills a direction, beyond T for none (0-dim)."""

    steps: int
    growth: Tensor
    lost: Tensor
    first_zero: Tensor


def _measured(chain: JacobianChain, carried: Carried, widened: Tensor, start: int, stop: int) -> _Stretch:
    """What a stretch did to the frame; `widened` is by how much the volumes of the frame itself have grown, (k)."""
    pivots = torch.stack([one.diagonal for one in carried.factors]).double().abs()
    growth = pivots.log().sum(0) + widened
    lost = ((pivots < LOST * pivots.amax(1, keepdim=True)) & (pivots > 0)).any(0)
    dead, ends = (pivots == 0).any(1), torch.tensor(carried.ends, device=pivots.device)
    if carried.condition > UNCERTAIN and len(growth) == chain.size:
        volumes = _determinants(chain, start, stop).to(growth)
        last = volumes.sum() - growth[:-1].sum()
        # Where the factors hold an exact zero, they say already which direction is lost.
        growth = torch.cat([growth[:-1], torch.where(growth.isfinite().all(), last, growth[-1])[None]])
        dead, ends = volumes == -math.inf, torch.arange(start + 1, stop + 1, device=pivots.device)
    return _Stretch(stop - start, growth, lost, torch.where(dead, ends, chain.length + 1).min())


def _determinants(chain: JacobianChain, start: int, stop: int) -> Tensor:
    """The ln |det J_t| of sequence 0, t = start + 1 .. stop."""
    if isinstance(chain, StackRun) and all(isinstance(layer, Volume) for layer in chain.layers):
        # The layers' Jacobians are the diagonal blocks of a triangular one.
        parts = [layer.log_volume(slice(start, stop))[:, 0] for layer in chain.layers if isinstance(layer, Volume)]
        return torch.stack(parts).sum(0)
    # One at a time: factorising large matrices in a batch on several threads was seen to upset the library beneath.
    matrices = chain.dense(start, stop)[0].double()
    return torch.stack([torch.linalg.slogdet(matrix).logabsdet for matrix in matrices])


def adjoint_profile(chain: JacobianChain, v: Tensor) -> Tensor:
    """log10 ||dL/ds_{T-k}|| for k = 0 .. T of a bare chain whose loss is <v, s_T>, (batch, T + 1)."""
    a, e = normalise(v.to(chain.like).expand(chain.batch, -1))
    found = [log10_norm(a, e)]
    for t in range(chain.length, 0, -1):
        a, e = normalise(chain.rmatmat(t, a[..., None])[..., 0], e)
        found.append(log10_norm(a, e))
    return torch.stack(found, 1)

"""A cut gradient: exactly zero although the numbers depend on each other, of one state on another or on the input."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from gradscope.chain import ArrayChain
from gradscope.numerics.analysis import Analysis


def measure(analysis: Analysis) -> int | None:
    """The newest such step up to the anchor: what comes after it is on nobody's way."""
    analysis.require_full()
    return max((step for step in analysis.trace.cut_steps(analysis.spec.item) if step <= analysis.anchor), default=None)


def made_anew(analysis: Analysis) -> tuple[int, ...] | None:
    """Steps up to the anchor that begin with a fresh state: nothing of the one before is read."""
    analysis.require_full()
    return tuple(step for step in _anew(analysis) if step <= analysis.anchor) or None


def zeroed(analysis: Analysis) -> tuple[int, ...] | None:
    """Those of them at which the state before is multiplied by exactly zero."""
    analysis.require_full()
    return tuple(step for step, masked in _anew(analysis).items() if masked and step <= analysis.anchor) or None


def _anew(analysis: Analysis) -> Mapping[int, bool]:
    return analysis.trace.anew_steps(analysis.spec.item)


def of_input(analysis: Analysis) -> int | None:
    """The newest step up to which no input receives a gradient, though the output at the anchor depends on them.

    A small change of those inputs tells: what is not read at all, or read by units that are dead, changes nothing. None
    where newer inputs receive none either: then the input is unheard as a whole.
    """
    run = analysis.runs[0]
    if isinstance(run.model, ArrayChain) or not run.x.shape[-1]:
        return None
    analysis.require_finite()
    heard = (analysis.influence > -math.inf).any(0).nonzero().flatten().tolist()
    lags, anchor = analysis.influence.shape[1], analysis.anchor
    if not heard or heard[-1] == lags - 1:
        return None
    unheard = anchor - heard[-1] - 1
    with torch.no_grad():
        before, after = (run.model(x) for x in (run.x, _nudged(run.x, unheard)))
    if before.ndim == 3 and before.shape[1] >= anchor:
        # Earlier outputs hear of their own inputs, whatever becomes of the one that the anchor is about.
        before, after = before[:, anchor - 1], after[:, anchor - 1]
    noise = 8 * torch.finfo(before.dtype).eps * float(before.abs().max())
    return unheard if float((before - after).abs().max()) > noise else None


def _nudged(x: Tensor, steps: int) -> Tensor:
    """X with its first steps changed: numbers by the square root of their rounding error, ids by others."""
    moved = x.clone()
    if not x.is_floating_point():
        moved[:, :steps] = int(x.max()) - x[:, :steps]
        return moved
    drawn = torch.randn(x[:, :steps].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moved[:, :steps] += math.sqrt(torch.finfo(x.dtype).eps) * (float(x.abs().max()) or 1.0) * drawn.to(x)
    return moved

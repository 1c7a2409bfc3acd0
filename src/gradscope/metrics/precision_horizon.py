"""Precision horizon: how many lags back a gradient survives in float32, bfloat16 and float16.

Read off the float64 log profile of one anchor step, not off a run in the type. Two things end it. *Range*: the norm of
dL/ds falls below the smallest number above zero that the type holds (subnormals counted, as torch on a CPU does; a
device that flushes them gives up log2(1 / epsilon) powers of two earlier), or rises above the largest. The norm bounds
every element, so beyond that lag no element can be held. A run then holds exact zeros, or, where a gate multiplies
element by element, a last bit that rounds back to itself for ever and says nothing. *Precision*: a step's part in dL/dW
falls below the type's epsilon, so that adding it to the rest changes nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradscope.metrics.gradients import shares
from gradscope.numerics.analysis import Analysis
from gradscope.numerics.influence import by_lag, geometric_mean
from gradscope.numerics.trace import Unavailable

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LOSS_SCALE = 1.0
SLACK = 1e-9
"""Decades within which a norm counts as the limit itself: logarithms are rounded."""

Horizon = dict[str, int | float | None]


def measure(analysis: Analysis) -> dict[str, Horizon]:
    """By type: the last lag at which all is well, None where that holds as far back as the sequence goes.

    `underflow` and `overflow` are the last lags before dL/ds leaves the type's range, `share` the last lag whose part
    in dL/dW reaches epsilon, `lag` the smallest of these; `loss_scale` is the factor on the loss they hold for.

    Underflow and share are those of the geometric mean over sequences and seeds, overflow that of the worst sequence:
    one Inf spoils the sum. Models without a state are judged by dL/dx, and have no share. Exact zeros are a matter of
    the model and not of the type: they end nothing here.
    """
    analysis.require_gradient()
    gradient, weight = _profiles(analysis)
    typical, worst = geometric_mean(gradient), gradient.amax(0)
    share = None if weight is None else geometric_mean(weight)
    return {name: _horizon(torch.finfo(dtype), typical, worst, share) for name, dtype in TYPES.items()}


def _profiles(analysis: Analysis) -> tuple[Tensor, Tensor | None]:
    """log10 of the gradient's norm, lags 0 .., and of every lag's weight share; (sequences, lags)."""
    analysis.require_equal()
    anchored = analysis.anchored
    newest = analysis.anchor
    # In the adjoint of a loss at every step, newer terms would cover up what is lost: the newest anchor stands alone.
    try:
        adjoints = [trace.adjoint(v, totals=False) for trace, v in zip(analysis.traces, anchored, strict=True)]
    except Unavailable:
        return analysis.influence, None
    ends = list(zip(adjoints, analysis.newest, strict=True))
    # The state before step 1 is one lag more.
    state = torch.cat([by_lag(one.state.T, None if own is None else own + 1, newest + 1) for one, own in ends])
    parts = [(shares(one.weight).T, own) for one, own in ends if one.weight is not None]
    return state, torch.cat([by_lag(part, own, newest) for part, own in parts]) if parts else None


def _horizon(info: torch.finfo, typical: Tensor, worst: Tensor, share: Tensor | None) -> Horizon:
    scale = math.log10(LOSS_SCALE)
    smallest = math.log10(info.smallest_normal) + math.log10(info.eps)
    found = {
        "underflow": _before(_held(typical) & (typical + scale < smallest - SLACK)),
        "overflow": _before(worst + scale > math.log10(info.max) + SLACK),
        "share": None if share is None else _last(share, math.log10(info.eps) - SLACK),
    }
    ends = [lag for lag in found.values() if lag is not None]
    return {"lag": min(ends, default=None), **found, "loss_scale": LOSS_SCALE}


def _held(logs: Tensor) -> Tensor:
    return logs != -math.inf


def _before(lost: Tensor) -> int | None:
    """The lag before the first lost one, at least 0: what is lost in a type stays lost further back."""
    where = lost.nonzero()
    return max(int(where[0]) - 1, 0) if len(where) else None


def _last(share: Tensor, epsilon: float) -> int | None:
    """The last lag whose share reaches epsilon, if older ones do not.

    None where no lag reaches it: over more than 1 / epsilon steps that count alike, each is small and none is lost.
    """
    enough = (share >= epsilon).nonzero()
    if not len(enough):
        return None
    lag = int(enough[-1])
    return lag if bool(_held(share[lag + 1 :]).any()) else None

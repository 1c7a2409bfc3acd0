"""How far back the gradient of the training loss itself reaches, for copies in training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradscope.metrics.influence import reach_of, slopes
from gradscope.numerics.scale import log10_norm, log10_sum
from gradscope.probe.learners import Learners
from gradscope.sequences.tasks.task import Samples
from gradscope.trained import Sighting


@dataclass(frozen=True)
class Flow:
    """log10 ||dl/dx|| by lag 0, 1, ... of each run, (R, lags); lags are counted from the first step that answers."""

    arithmetic: Tensor
    """Mean over sequences."""
    geometric: Tensor
    """Geometric mean over sequences."""
    whole: Tensor
    """log10 of the arithmetic means summed over all steps, (R,)."""


def flow(learners: Learners, samples: Samples, runs: Sequence[int]) -> Flow:
    """How much of the training loss arrives at each input, in float64 where the model allows it."""
    x = samples.x.double().expand(len(runs), *samples.x.shape).clone().requires_grad_()
    target = samples.target.expand(len(runs), *samples.target.shape)
    target = target.double() if target.is_floating_point() else target
    with learners.copies.precise():
        loss = learners.task.loss(learners.read(x, runs), target).sum()
        (grad,) = torch.autograd.grad(loss, x)
    norms = log10_norm(grad)
    over = log10_sum(norms, 1) - math.log10(norms.shape[1])
    newest = grad.shape[2] - learners.task.answers + 1
    by_lag = [part[:, :newest].flip(1) for part in (over, norms.mean(1))]
    return Flow(by_lag[0], by_lag[1], log10_sum(over, 1))


def sight(learners: Learners, samples: Samples, runs: Sequence[int], lag: int, step: int) -> list[Sighting]:
    """Share at the needed lag, reach and rate of each run at a training step; of a model of token ids nothing is known.

    Reach and rate are those of the analysis, of the training loss's own ||dl/dx|| in the place of the influence.
    """
    if learners.as_ids:
        return [Sighting(step, None, None, None) for _ in runs]
    seen = flow(learners, samples, runs)
    # As in the analysis: what lies further back than the needed lag is no competitor.
    shares = (seen.arithmetic[:, lag] - log10_sum(seen.arithmetic[:, : lag + 1], 1)).tolist()
    rates = [slopes(lags[None, 1 : lag + 1] * math.log(10)) for lags in seen.geometric]
    return [
        Sighting(step, _known(share), reach_of(lags), _known(*rate))
        for share, lags, rate in zip(shares, seen.geometric, rates, strict=True)
    ]


def _known(value: float = math.nan) -> float | None:
    return None if math.isnan(value) else value

"""How far back the gradient of the training loss itself reaches, for copies in training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradscope.numerics.scale import log10_norm, log10_sum
from gradscope.probe.learners import Learners
from gradscope.sequences.tasks.task import Samples


@dataclass(frozen=True)
class Sight:
    """At one training step."""

    step: int
    gradient_share: float
    """log10 of the share of sum_t ||dl/dx_t|| that lies at the needed lag, -inf where nothing arrives."""
    reach: int
    """Largest lag whose ||dl/dx|| is at least 1 % of that of lag 1; 0 where there is none."""
    rate: float
    """(ln ||dl/dx|| at the needed lag - ln at lag 1) / (lag - 1), nats a step back."""


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


def sight(learners: Learners, samples: Samples, runs: Sequence[int], lag: int, step: int) -> list[Sight]:
    """Of each run; nothing is known of a model of token ids."""
    if learners.as_ids:
        return [Sight(step, math.nan, 0, math.nan) for _ in runs]
    found, seen = [], flow(learners, samples, runs)
    shares = (seen.arithmetic[:, lag] - seen.whole).tolist()
    for share, lags in zip(shares, seen.geometric, strict=True):
        heard = (lags[1:] >= lags[1] - 2).nonzero()
        reach = int(heard.max()) + 1 if len(heard) and bool(lags[1] > -torch.inf) else 0
        rate = float(lags[lag] - lags[1]) / max(lag - 1, 1) * math.log(10)
        found.append(Sight(step, share, reach, rate))
    return found

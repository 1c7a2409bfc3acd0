"""The influence profile I(k) = ||d<v_a, y_a>/dx_{a-k}||: one scale for recurrent, attention and any causal model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gradscope.models.direct import Direct
from gradscope.models.recurrent import Recurrent, Trajectory
from gradscope.numerics.adjoint import Adjoint, backpropagate
from gradscope.numerics.scale import log10_norm


@dataclass(frozen=True)
class Profile:
    """log10 I(k) of each sequence, lags 0 .. K (batch, K + 1), and how many steps a lag can look back at most."""

    log10: Tensor
    of_state: bool
    """Whether it is ||dL/ds_{T-k}||, for models without input."""


def anchor_steps(cotangent: Tensor, count: int) -> list[int]:
    """Steps (1..T) whose output the loss reads: the last, or `count` of them spread over the newest half.

    Args:
        cotangent: dL/dy, (batch, T, features).
        count: how many are wanted.
    """
    read = (cotangent != 0).any(-1).any(0).nonzero().flatten().add(1).tolist()
    if not read or count == 1:
        return read[-1:]
    newest = [step for step in read if step > read[-1] // 2]
    places = torch.linspace(0, len(newest) - 1, min(count, len(newest))).round().long().tolist()
    return [newest[place] for place in places]


def only_step(cotangent: Tensor, step: int) -> Tensor:
    """The cotangent with all steps but one set to zero."""
    kept = torch.zeros_like(cotangent)
    kept[:, step - 1] = cotangent[:, step - 1]
    return kept


def backward_from(trajectory: Trajectory, cotangent: Tensor, step: int) -> Adjoint:
    """Adjoint of <v_step, y_step> alone."""
    return backpropagate(trajectory, only_step(cotangent, step))


def profile_of(adjoint: Adjoint, step: int, of_state: bool) -> Tensor:
    """log10 I(k), k = 0, 1, ..., (batch, lags), from the adjoint of one anchor step."""
    if of_state:
        return adjoint.state[1 : step + 1].flip(0).T
    return adjoint.input[:step].flip(0).T


def direct_gradient(model: Direct | Recurrent, x: Tensor, cotangent: Tensor) -> Tensor:
    """log10 ||d<v, y>/dx_t||, (batch, T), by autograd through the whole model."""
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad((model(leaf) * cotangent).sum(), leaf, allow_unused=True)
    return log10_norm(torch.zeros_like(x) if gradient is None else gradient)


def mean_over_anchors(profiles: list[Tensor]) -> Tensor:
    """Geometric mean of profiles of different length, each lag over the anchors that reach it.

    A lag is zero (-inf) only where every anchor finds exactly zero.
    """
    longest = max(profile.shape[1] for profile in profiles)
    padded = [torch.nn.functional.pad(p, (0, longest - p.shape[1]), value=math.inf) for p in profiles]
    stacked = torch.stack(padded)
    return geometric_mean(stacked, stacked != math.inf)


def geometric_mean(logs: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean over the first dimension of logarithms; exact zeros (-inf) are left out unless there is nothing else."""
    usable = logs != -math.inf
    if valid is not None:
        usable &= valid
    count = usable.sum(0)
    mean = torch.where(usable, logs, torch.zeros_like(logs)).sum(0) / count.clamp_min(1)
    return torch.where(count > 0, mean, torch.full_like(mean, -math.inf))

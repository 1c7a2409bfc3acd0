"""The influence profile I(k) = ||d<v_a, y_a>/dx_{a-k}||: one scale for recurrent, attention and any causal model."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gradscope.models.direct import Direct
from gradscope.models.recurrent import Recurrent
from gradscope.numerics.scale import log10_norm


def cotangent(loss: Callable[[Tensor], Tensor], output: Tensor) -> Tensor:
    """The cotangent v = dL/dy; zero where the loss does not read the output."""
    leaf = output.detach().requires_grad_()
    with torch.enable_grad():
        value = loss(leaf)
        v = torch.autograd.grad(value, leaf, allow_unused=True)[0] if value.requires_grad else None
    return torch.zeros_like(output) if v is None else v


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
    """The cotangent with all steps but one set to zero; the very same where they are zero already."""
    kept = torch.zeros_like(cotangent)
    kept[:, step - 1] = cotangent[:, step - 1]
    return cotangent if torch.equal(kept, cotangent) else kept


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

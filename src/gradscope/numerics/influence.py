"""The influence profile I(k) = ||d<v_a, y_a>/dx_{a-k}||: one scale for recurrent, attention and any causal model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from gradscope.errors import UsageError
from gradscope.models.input_leaf import run_moved
from gradscope.models.output_shape import reals
from gradscope.models.stack import Recurrent
from gradscope.models.whole_module import WholeModule
from gradscope.numerics.logscale import log10_norm
from gradscope.torch_private import tree_leaves, tree_map_only

ROUNDING = "dL/dx is rounding alone: what the loss adds up is the same for every input, as a sum over a LayerNorm's is"
SMALL = 1e3
"""Roundings of a cotangent up to which a gradient may be nothing else."""
NEAR_OVERFLOW = 10.0
"""Decades under the largest number of a type from which on NaN is taken for an overflow."""


class Trace(Protocol):
    """What gives a profile for a cotangent."""

    def profile(self, v: Any, step: int, /) -> Tensor:
        """log10 I(k), (sequences, lags)."""
        ...


def cotangent(loss: Callable[[Tensor], Tensor], output: Tensor) -> Tensor:
    """The cotangent v = dL/dy; zero where the loss does not read the output."""
    leaf = output.detach().requires_grad_()
    with torch.enable_grad():
        # A copy, which a loss may write into: torch lets nobody write into a leaf.
        value = loss(leaf.clone())
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


def own_ends(cotangent: Tensor) -> Tensor | None:
    """The newest step (1..T) of every sequence whose output the loss reads, (batch); None where it is the same for all.

    It is 0 for a sequence of which no step is read.

    Args:
        cotangent: dL/dy, (batch, T, features).
    """
    read = (cotangent != 0).any(-1)
    ends = (read * torch.arange(1, read.shape[1] + 1, device=read.device)).amax(1)
    return None if bool((ends == ends[0]).all()) else ends


def only_step(cotangent: Tensor, step: int) -> Tensor:
    """The cotangent with all steps but one set to zero; the very same where they are zero already.

    A sequence that the loss reads no further than an earlier step, as padding ends it, keeps that step.
    """
    ends = own_ends(cotangent)
    rows = torch.arange(len(cotangent), device=cotangent.device)
    place = torch.full_like(rows, step - 1) if ends is None else ends.clamp(1, step) - 1
    kept = torch.zeros_like(cotangent)
    kept[rows, place] = cotangent[rows, place]
    return cotangent if torch.equal(kept, cotangent) else kept


def by_lag(logs: Tensor, newest: Tensor | None, lags: int) -> Tensor:
    """Values by step, (batch, steps), as values by lag, (batch, lags): lag 0 is the anchor, `lags` being its step.

    Args:
        logs: log10 of what arrives at steps 1, 2, ...
        newest: the anchor of every sequence, (batch), where they differ: what would lie before step 1 is -inf, as
            what nothing arrives at.
        lags: how many.
    """
    if newest is None:
        return logs[:, :lags].flip(1)
    place = newest[:, None].to(logs.device) - 1 - torch.arange(lags, device=logs.device)
    return torch.where(place >= 0, logs.gather(1, place.clamp_min(0)), -math.inf)


def direct_gradient(model: WholeModule | Recurrent, x: Tensor, cotangent: Tensor) -> Tensor:
    """log10 ||d<v, y>/dx_t||, (batch, T), by autograd through the whole model."""
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad((model(leaf) * cotangent).sum(), leaf, allow_unused=True)
    return log10_norm(torch.zeros_like(x) if gradient is None else gradient)


def mean_over_anchors(profiles: list[Tensor]) -> Tensor:
    """Geometric mean of profiles of different length, each lag over the anchors that reach it.

    A lag is zero (-inf) only where every anchor finds exactly zero, and overflows (inf) where one of them does.
    """
    lengths = [profile.shape[1] for profile in profiles]
    reached = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    stacked = profiles[0].new_zeros(len(profiles), len(profiles[0]), max(lengths))
    for place, profile in enumerate(profiles):
        stacked[place, :, : profile.shape[1]] = profile
    return geometric_mean(stacked, reached[:, None].to(stacked.device))


def overflow_kept(logs: Tensor, dtype: torch.dtype) -> Tensor:
    """A profile (sequences, lags) in which NaN that follows an overflow is that overflow, +inf.

    Autograd turns what overflows into Inf and, one matrix product further, Inf - Inf into NaN. NaN before which nothing
    came near the largest number of the type stays: it is of another making.

    Args:
        logs: log10 I(k), lag 0 first.
        dtype: the type in which the gradient was carried.
    """
    largest = math.log10(torch.finfo(dtype).max) - NEAR_OVERFLOW
    return torch.where(logs.isnan() & ((logs > largest).cumsum(1) > 0), math.inf, logs)


def is_rounding(trace: Trace, v: Any, anchor: int, logs: Tensor) -> bool:
    """Whether a gradient is what rounding leaves of terms that cancel, as of a sum over what a LayerNorm returns.

    It is linear in the cotangent, and rounding is not: 4/3 of the cotangent must give 4/3 of the gradient. That is
    asked where it is as small as rounding, beside its cotangent.

    Args:
        trace: of the model.
        v: the cotangent of the anchor.
        anchor: the step whose output is looked back from.
        logs: log10 I(k) of the trace's sequences (and of more), lag 0 first.
    """
    asked = [part for part in tree_leaves(v) if isinstance(part, Tensor) and part.is_floating_point()]
    size = max((float(part.abs().max()) for part in asked if part.numel()), default=0.0)
    top = torch.where(logs.isnan(), -math.inf, logs).max(1).values
    if not asked or not size or not math.isfinite(size) or not bool((top > -math.inf).any()):
        return False
    eps = max(torch.finfo(part.dtype).eps for part in asked)
    if float(top.max()) > math.log10(size) + math.log10(SMALL * eps):
        return False
    more = trace.profile(tree_map_only(Tensor, lambda part: part * (4 / 3), v), anchor)
    own = logs[: len(more), : more.shape[1]]
    at = own.argmax(1, keepdim=True)
    off = (more.gather(1, at) - own.gather(1, at) - math.log10(4 / 3)).abs()
    return bool((off[own.gather(1, at) > -math.inf] > math.sqrt(eps)).all())


def geometric_mean(logs: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean over the first dimension of logarithms; exact zeros (-inf) are left out unless there is nothing else."""
    usable = logs != -math.inf
    if valid is not None:
        usable &= valid
    count = usable.sum(0)
    mean = torch.where(usable, logs, torch.zeros_like(logs)).sum(0) / count.clamp_min(1)
    return torch.where(count > 0, mean, torch.full_like(mean, -math.inf))


MOVED = 0.01
"""How far an input is moved, as a part of its size and as a number: far above rounding."""


def of_newest(model: WholeModule, x: Tensor, v: tuple[Tensor | None, ...], newest: Tensor) -> tuple[Tensor | None, ...]:
    """The cotangents of the outputs that change with the newest inputs; the very same where that is all of them.

    They need no axis of steps for it: logits (batch * T, classes), a list of T tensors, every fourth step.

    Args:
        model: the module.
        x: inputs (batch, T, features), or token ids (batch, T).
        v: dL/dy of every tensor that the module returns.
        newest: the newest step (1..T) that the loss hears of, by sequence.
    """
    if sum(int((g != 0).sum()) for g in v if g is not None) <= len(x):
        return v
    where = torch.arange(1, x.shape[1] + 1, device=x.device) == newest.to(x.device)[:, None]
    try:
        before, after = (_outputs(model, x, where if moved else torch.zeros_like(where)) for moved in (False, True))
    except UsageError:
        # It refuses other numbers than its own.
        return v
    if [y.shape for y in before] != [y.shape for y in after] or len(before) != len(v):
        return v
    kept = tuple(
        None if g is None else torch.where((a != b).to(g.device), g, torch.zeros_like(g))
        for g, a, b in zip(v, before, after, strict=True)
    )
    heard = any(g is not None and bool((g != 0).any()) for g in kept)
    same = all(g is None or torch.equal(g, one) for g, one in zip(v, kept, strict=True) if one is not None)
    return v if same or not heard else kept


def is_last_step(kept: Tensor | None, v: Tensor | None, steps: int) -> bool:
    """Whether what hears of the newest inputs is the last step of outputs (batch, steps * classes), in either order.

    Args:
        kept: dL/dy of those outputs, (batch, features), zero elsewhere.
        v: dL/dy of all of them.
        steps: T; features is a multiple of it.
    """
    if kept is None or v is None or kept is v:
        return False
    heard, read = ((g != 0).any(0) for g in (kept, v))
    both = torch.stack((heard, read))
    orders = (both.reshape(2, steps, -1), both.reshape(2, -1, steps).transpose(1, 2))
    return any(not bool(heard[:-1].any()) and torch.equal(heard[-1], read[-1]) for heard, read in orders)


@torch.no_grad()
def _outputs(model: WholeModule, x: Tensor, where: Tensor) -> list[Tensor]:
    """What the module returns when its input, or what its embeddings make of ids, is moved at some steps."""
    if x.is_floating_point():
        return reals(model.run(model.laid_out(torch.where(where[..., None], x * (1 + MOVED) + MOVED, x))))
    return reals(run_moved(model, x, lambda leaf, _: leaf + MOVED * where[..., None].to(leaf)))

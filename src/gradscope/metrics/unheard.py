"""What acts on the loss and receives no gradient all the same: it lies behind a detach."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gradscope.metrics.silent import is_zero
from gradscope.models.direct import Direct
from gradscope.numerics.analysis import Analysis
from gradscope.numerics.gradients.parameters import loss_value

MOST = 6
"""How many are tried: each costs two forward passes."""
INPUT = "the input"
ROUNDINGS = 1e3
"""Size of an answer, beside what rounding alone answers."""
SMOOTH = 0.25
"""Part by which the answers to a nudge up and down may differ: at a kink or an extremum they differ by all of it."""


def measure(analysis: Analysis) -> tuple[str, ...]:
    """Names of learnable parameters, `the input` among them, with dL/dp = 0 although dL follows a nudge of p.

    L(p + e) - L(p) and L(p) - L(p - e) agree to first order, so that a gradient of zero is not the loss's own.

    Raises:
        Unavailable: the model has no loss that could be differentiated.
    """
    analysis.require_finite()
    run = analysis.runs[0]
    model = run.model
    if not isinstance(model, Direct):
        return ()
    by_name, given = analysis.by_parameter
    weights = model.parameters()
    silent = [name for name, grad in by_name.items() if weights[name].requires_grad and is_zero(grad)]
    tried: list[tuple[str, Tensor]] = [(name, weights[name]) for name in silent[:MOST]]
    x = run.x.detach().clone()
    if x.is_floating_point() and x.shape[-1] and is_zero(given):
        tried.insert(0, (INPUT, x))

    def value() -> Tensor:
        return loss_value(model, x, run.loss).detach().double()

    before = value() if tried else None
    return tuple(name for name, p in tried if before is not None and _acts(p, before, value))


def _acts(p: Tensor, before: Tensor, value: Callable[[], Tensor]) -> bool:
    """Whether the loss follows a small change of p smoothly.

    It is changed through `data`: the graphs of the pass, which are read after this, hold it at its version.
    """
    kept = p.detach().clone()
    nudge = nudge_of(kept, p.shape)

    def moved(by: float) -> Tensor:
        p.data.copy_(kept + by * nudge)
        return value() - before

    try:
        with torch.no_grad():
            up, down = moved(1), -moved(-1)
            precision = torch.finfo(p.dtype).eps
            if not agree(up, down, ROUNDINGS * precision * float(before.abs())):
                return False
            # Rounding of the whole pass, summed in the loss, is no answer: it is as large for a few roundings of p.
            few = precision ** (2 / 3)
            return agree(up, down, ROUNDINGS * max(float(moved(times * few).abs()) for times in (1, 2, 3, -1, -2, -3)))
    finally:
        p.data.copy_(kept)


def nudge_of(values: Tensor, shape: Sequence[int]) -> Tensor:
    """A seeded change by the cube root of the rounding error of numbers like these."""
    drawn = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(values)
    size = float(values.square().mean().sqrt()) or 1.0
    return drawn.mul(torch.finfo(values.dtype).eps ** (1 / 3) * size)


def agree(up: Tensor, down: Tensor, noise: float) -> bool:
    """Whether f(p + e) - f(p) and f(p) - f(p - e) are alike, and more than noise."""
    size = max(float(up.norm()), float(down.norm()))
    return size > noise and float((up - down).norm()) < SMOOTH * size

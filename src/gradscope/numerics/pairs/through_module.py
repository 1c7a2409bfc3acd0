"""Pairs of tokens in a model that is run as it is: dy_a/dx_b by autograd."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradscope.errors import UsageError
from gradscope.models.capture.watch import see
from gradscope.models.direct import Direct
from gradscope.numerics.scale import log10_hypot, log10_norm
from gradscope.records import Path

MOST_OUTPUTS = 512
"""Features of the output that are differentiated one by one; of more, `DIRECTIONS` stand for all."""
DIRECTIONS = 64

Measured = tuple[Tensor, tuple[Path, ...]]


def through_module(model: Direct, x: Tensor, source: int, target: int) -> Measured:
    """log10 ||D_j||_F, D_j = dy_a/dx_j, j = 1 .. a; of a model that reads the future, j = 1 .. T. And the paths.

    x_j is the embedding of a token where the model takes ids. One backward pass per output feature: batching them
    would multiply the squares that attention keeps. Of n > 512 features a seeded orthonormal U (n, 64) stands for
    all: E ||U^T D||_F^2 = 64/n ||D||_F^2, which leaves the norm uncertain by 9 % where D has rank one, less elsewhere.

    Args:
        model: the model.
        x: one sequence, (1, T, I) or ids (1, T).
        source: b, from 1.
        target: a, from 1.

    Raises:
        UsageError: nothing to differentiate by, or no output of its own at step a.
    """
    seen = see(model, x, search=False)
    given = seen.given
    if given is None:
        raise UsageError("--pair: no embedding of the module reads its token ids; leave it out")
    y = _at_step(model.output(seen.raw, x), target, x.shape[1])
    values, scale = _values(y)
    rows = [_gradient(value, given) for value in values]
    none = torch.full((x.shape[1],), -math.inf, dtype=given.dtype, device=given.device)
    logs = torch.stack([none if row is None else model.laid_out(log10_norm(row))[0] for row in rows])
    last = x.shape[1] if bool((logs[:, target:] > -math.inf).any()) else target
    logs = log10_hypot(logs[:, :last]) + math.log10(scale)
    what = "all" if len(values) == len(y) else f"all, by {len(values)} of {len(y):,} directions"
    return logs, (Path("model", what, float(logs[source - 1])), *_heads(model, x[:, :last], source, target))


def _heads(model: Direct, x: Tensor, source: int, target: int) -> list[Path]:
    """The weight of query a on key b, by layer and head."""
    if model.weights is None:
        return []
    with torch.no_grad():
        layers = model.weights(x)
    return [
        Path(f"l{index}", f"head {head} weight", float(weight.double().log10()))
        for index, weights in enumerate(layers)
        for head, weight in enumerate(weights[0, :, target - 1, source - 1])
    ]


def _at_step(output: Tensor, target: int, steps: int) -> Tensor:
    """Features of the output at a step of the only sequence."""
    if output.ndim == 3 and output.shape[1] == steps:
        return output[0, target - 1]
    if target == steps:
        return output[0].flatten()
    raise UsageError(f"--pair: the module has one output for {steps} steps; let step {steps} be the target")


def _values(y: Tensor) -> tuple[Tensor, float]:
    """What is differentiated in the place of y (n), and by what its norm is to be multiplied."""
    if len(y) <= MOST_OUTPUTS:
        return y, 1.0
    drawn = torch.randn(len(y), DIRECTIONS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.enable_grad():
        return y @ torch.linalg.qr(drawn)[0].to(y), math.sqrt(len(y) / DIRECTIONS)


def _gradient(value: Tensor, leaf: Tensor) -> Tensor | None:
    """The gradient of `value`; None when nothing joins the two."""
    if not value.requires_grad:
        return None
    found: Tensor | None = torch.autograd.grad(value, leaf, retain_graph=True, allow_unused=True)[0]
    return found

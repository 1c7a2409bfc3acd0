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

MOST_OUTPUTS = 8192
"""Features of the output, each of which takes a backward pass."""

Measured = tuple[Tensor, tuple[Path, ...]]


def through_module(model: Direct, x: Tensor, source: int, target: int) -> Measured:
    """log10 ||D_j||_F, D_j = dy_a/dx_j, j = 1 .. a; of a model that reads the future, j = 1 .. T. And the paths.

    x_j is the embedding of a token where the model takes ids. One backward pass per output feature: batching them
    would multiply the squares that attention keeps.

    Args:
        model: the model.
        x: one sequence, (1, T, I) or ids (1, T).
        source: b, from 1.
        target: a, from 1.

    Raises:
        UsageError: nothing to differentiate by, no output of its own at step a, or too wide an output.
    """
    seen = see(model, x, search=False)
    given = seen.given
    if given is None:
        raise UsageError("--pair: no embedding of the module reads its token ids; leave it out")
    rows = [_gradient(value, given) for value in _at_step(model.output(seen.raw), target, x.shape[1])]
    none = torch.full((x.shape[1],), -math.inf, dtype=given.dtype, device=given.device)
    logs = torch.stack([none if row is None else model.laid_out(log10_norm(row))[0] for row in rows])
    last = x.shape[1] if bool((logs[:, target:] > -math.inf).any()) else target
    logs = log10_hypot(logs[:, :last])
    return logs, (Path("model", "all", float(logs[source - 1])), *_heads(model, x[:, :last], source, target))


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
        found = output[0, target - 1]
    elif target == steps:
        found = output[0].flatten()
    else:
        raise UsageError(f"--pair: the module has one output for {steps} steps; let step {steps} be the target")
    if len(found) > MOST_OUTPUTS:
        raise UsageError(f"--pair: the output has {len(found):,} features, more than {MOST_OUTPUTS:,}; leave it out")
    return found


def _gradient(value: Tensor, leaf: Tensor) -> Tensor | None:
    """The gradient of `value`; None when nothing joins the two."""
    if not value.requires_grad:
        return None
    found: Tensor | None = torch.autograd.grad(value, leaf, retain_graph=True, allow_unused=True)[0]
    return found

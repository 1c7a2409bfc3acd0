"""What the lockstep layers share.

Everything here is (T, R, features, batch): the numbers of one step lie together, and so do those of one gate, so that
each operation of a step is a single one for all copies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]
"""Named as in torch.nn, each with the copies in front: `weight_hh` (R, G H, H)."""


def applied(function: type[torch.autograd.Function], *given: Any) -> Tensor:
    """The function's output, a tensor."""
    found: Tensor = function.apply(*given)
    return found


def times(matrix: Tensor, x: Tensor) -> Tensor:
    """W x_t at every step, (T, R, O, B), of W (R, O, I) and x (T, R, I, B)."""
    steps, batch = x.shape[0], x.shape[-1]
    flat = matrix @ x.permute(1, 2, 0, 3).flatten(2)
    found: Tensor = flat.unflatten(2, (steps, batch)).permute(2, 0, 1, 3).contiguous()
    return found


def driven(x: Tensor, weights: Weights, *, both: bool = False) -> Tensor:
    """W_ih x_t + b_ih, and b_hh where `both` are meant, at every step, (T, R, G H, B)."""
    found = times(weights["weight_ih"], x)
    names = ("bias_ih", "bias_hh") if both else ("bias_ih",)
    biases = [weights[name] for name in names if name in weights]
    return found + sum(biases[1:], biases[0])[..., None] if biases else found


def earlier(states: Tensor, start: Tensor) -> Tensor:
    """s_0 .. s_{T-1} of s_1 .. s_T (T, R, S, B)."""
    return torch.cat([start[None], states[:-1]])


def backwards(*parts: Tensor) -> zip[tuple[Tensor, ...]]:
    """Each step's own part of all of `parts`, the newest first."""
    return zip(*(reversed(part.unbind(0)) for part in parts), strict=True)


def forwards(*parts: Tensor) -> zip[tuple[Tensor, ...]]:
    """Each step's own part of all of `parts`, the oldest first."""
    return zip(*(part.unbind(0) for part in parts), strict=True)

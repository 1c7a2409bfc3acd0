"""How closely two ways of computing one thing have to agree, by the coarsest number type that took part."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tolerance:
    """Relative differences that rounding explains."""

    outputs: float
    """Of two runs of one module: again, or a sequence alone and among the others of its batch."""
    gradients: float
    """Of a chain's outputs, dL/dx and dL/dW and those of the module itself, over all steps."""
    one_step: float
    """Of the gradient of a single step, which a sum over all steps may hide."""
    quiet: float
    """The norm below which torch's own gradient of a step may have lost digits on its way, so that it proves
    nothing."""


TOLERANCES = {
    torch.float64: Tolerance(1e-9, 1e-10, 1e-4, 1e-250),
    torch.float32: Tolerance(1e-3, 1e-4, 0.1, 1e-25),
    torch.bfloat16: Tolerance(0.1, 0.2, 1.0, 1e-25),
    torch.float16: Tolerance(0.02, 0.05, 0.5, 1e-3),
}


def coarsest(types: Iterable[torch.dtype]) -> torch.dtype:
    """The type with the fewest digits; float64 where there is none."""
    known = [kind for kind in types if kind in TOLERANCES]
    return max(known, key=lambda kind: torch.finfo(kind).eps, default=torch.float64)


def tolerance(types: Iterable[torch.dtype]) -> Tolerance:
    """What rounding explains where numbers of these types took part."""
    return TOLERANCES[coarsest(types)]


ROUNDINGS = 1e4
"""How many times as far as a change of the input by one rounding all the rounding of a pass may move it, at most."""


def roundings(kind: torch.dtype) -> float:
    """The same for a type: what its tolerance leaves for a pass in which nothing grows."""
    return min(ROUNDINGS, tolerance((kind,)).gradients / torch.finfo(kind).eps)


def nudged(x: Tensor, kind: torch.dtype) -> Tensor:
    """X changed by about one rounding of this type."""
    return x + torch.finfo(kind).eps * x.abs().amax().clamp_min(1.0) if x.numel() else x

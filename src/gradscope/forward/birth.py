"""Where in a pass the first NaN or Inf is made: operation, part of the module, step, and what brought it."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from gradscope.forward.look import Counting, innermost, look_at
from gradscope.forward.opened import opened
from gradscope.models.direct import Direct


@dataclass(frozen=True)
class Birth:
    """The first value that is not finite."""

    step: int
    operation: str
    part: str
    """Dotted name of the submodule in whose code it happens; empty for the module itself."""
    cause: str
    """`constant`: a number in the code that is not finite; `arithmetic`: of finite numbers."""
    value: str
    """`nan`, `inf` or `-inf`."""


class Births(Counting):
    """Looks at every result until one is not finite."""

    def __init__(self, model: Direct) -> None:
        super().__init__()
        self.paths = {id(part): name for name, part in model.module.named_modules()}
        self.first: tuple[int, int, str, str, str, Tensor] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One call."""
        found = super().__torch_function__(func, types, args, kwargs)
        if self.first is None:
            results = found if isinstance(found, tuple | list) else (found,)
            for place, value in enumerate(results):
                if _is_bad(value):
                    self.first = (self.count, place, *self._told(func, args, kwargs), value.detach().clone())
                    break
        return found

    def _told(self, func: Any, args: Any, kwargs: Any) -> tuple[str, str, str]:
        name = str(getattr(func, "__name__", func)).strip("_")
        given = pytree.tree_leaves((args, kwargs))
        constant = any(isinstance(one, float) and not math.isfinite(one) for one in given)
        constant = constant or any(_is_bad(one) for one in given)
        return name, innermost(sys._getframe(2), self.paths), "constant" if constant else "arithmetic"


def first_birth(model: Direct, x: Tensor, axis: int) -> Birth | None:
    """Of one sequence, x as the module takes it; None where a call from Python returns nothing that is not finite."""
    mode = Births(model)
    look_at(model, x, mode)
    if mode.first is None:
        return None
    count, place, name, part, cause, value = mode.first
    return Birth(_step(model, x, axis, (count, place), value), name, part, cause, _kind(value))


def _step(model: Direct, x: Tensor, axis: int, call: tuple[int, int], value: Tensor) -> int:
    """The newest input that the value has read; of one that holds all steps, the first that is not finite."""
    one = opened(model, x, axis=axis)
    made = [edge for edge, own in one.recording.calls.items() if own == call]
    marks = [one.labels.of((one.graph.place[node], nr)) for node, nr in made if node in one.graph.place]
    label = next((mark.label for mark in marks if mark is not None and mark.label), None)
    if label is not None:
        return label
    steps = x.shape[axis]
    for along in [d for d in (axis, *range(value.ndim)) if d < value.ndim and value.shape[d] == steps]:
        others = [d for d in range(value.ndim) if d != along]
        bad = (~value.isfinite()).sum(others).nonzero().flatten() if others else (~value.isfinite()).nonzero().flatten()
        return int(bad[0]) + 1
    return steps


def _is_bad(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all())


def _kind(value: Tensor) -> str:
    if bool(value.isnan().any()):
        return "nan"
    return "inf" if bool((value == torch.inf).any()) else "-inf"

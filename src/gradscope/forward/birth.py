"""Where in a pass the first NaN or Inf is made: operation, part of the module, step, and what brought it."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from gradscope.forward.graph import Value
from gradscope.forward.look import Counting, innermost, look_at
from gradscope.forward.opened import Opened, opened
from gradscope.forward.pull import pull_scaled
from gradscope.forward.record import transformed
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
        if self.first is None and not transformed():
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
    steps = x.shape[axis]
    for along in [d for d in (axis, *range(value.ndim)) if 1 < value.ndim > d and value.shape[d] == steps]:
        bad = (~value.isfinite()).sum([d for d in range(value.ndim) if d != along]).nonzero().flatten()
        return int(bad[0]) + 1
    one = opened(model, x, axis=axis)
    made = [edge for edge, own in one.recording.calls.items() if own == call]
    values = [(one.graph.place[node], nr) for node, nr in made if node in one.graph.place]
    marks = [one.labels.of(place) for place in values]
    label = next((mark.label for mark in marks if mark is not None and mark.label), None)
    return label or next((step for place in values if (step := _heard(one, place, value))), steps)


def _heard(one: Opened, place: Value, value: Tensor) -> int | None:
    """The first input that the first entry which is not finite has read."""
    if one.leaf is None or one.graph.shape(place) != value.shape:
        return None
    seed = torch.zeros_like(value)
    seed.view(-1)[int((~value.isfinite()).flatten().nonzero()[0])] = 1
    above = sorted(one.graph.above(place[0]), reverse=True)
    terms = pull_scaled(one.graph, above, {place: [(seed, 0)]}).take((one.leaf, 0))
    heard = [(m != 0).sum([d for d in range(m.ndim) if d != one.axis]).nonzero().flatten() for m, _ in terms]
    return min((int(steps[0]) + 1 for steps in heard if len(steps)), default=None)


def _is_bad(value: Any) -> bool:
    """Whether it holds NaN or +Inf; -Inf alone is what masks are made of."""
    return isinstance(value, Tensor) and value.is_floating_point() and not bool((value < torch.inf).all())


def _kind(value: Tensor) -> str:
    if bool(value.isnan().any()):
        return "nan"
    return "inf" if bool((value == torch.inf).any()) else "-inf"

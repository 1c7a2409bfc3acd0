"""What a module returns: the tensors in it, and which axis of one holds sequences, which steps."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from torch import Tensor, nn

from gradscope.torch_private import tree_flatten, tree_unflatten

Roles = tuple[int | None, int | None]
"""Which axis holds sequences and which steps; None where none does."""
Rebuild = Callable[[Sequence[Any]], Any]
"""Other leaves -> a structure that holds them."""
DEEPEST = 3
"""Objects inside objects that are looked into: what hangs on them further down is no output."""


def leaves_of(raw: Any) -> list[Any]:
    """What a returned structure holds, in its order; see `taken_apart`."""
    return taken_apart(raw)[0]


def reals(raw: Any) -> list[Tensor]:
    """Floating-point tensors in what a module returned."""
    return [value for value in leaves_of(raw) if isinstance(value, Tensor) and value.is_floating_point()]


def taken_apart(raw: Any, depth: int = 0) -> tuple[list[Any], Rebuild]:
    """The leaves of tuples, mappings, dataclasses and plain objects that hold tensors, in their order.

    Beside them what puts as many others in their places, in a structure of the same kind.
    """
    values, form = tree_flatten(raw)
    parts = [_of_object(value, depth) for value in values]

    def rebuilt(others: Sequence[Any]) -> Any:
        left = iter(others)
        return tree_unflatten([build([next(left) for _ in own]) for own, build in parts], form)

    return [leaf for own, _ in parts for leaf in own], rebuilt


def _of_object(value: Any, depth: int) -> tuple[list[Any], Rebuild]:
    """The same of what torch takes for a leaf: an object of a class that it does not know may hold tensors."""
    if depth > DEEPEST or isinstance(value, Tensor | nn.Module | type):
        return [value], lambda others: others[0]
    items = dict(value) if isinstance(value, Mapping) else {}
    names = [field.name for field in fields(value)] if is_dataclass(value) else []
    named = {name: getattr(value, name, None) for name in dict.fromkeys([*names, *getattr(value, "__dict__", ())])}
    held = {id(one): one for one in (*items.values(), *named.values()) if _may_hold(one)}
    apart = {key: taken_apart(one, depth + 1) for key, one in held.items()}
    apart = {key: own for key, own in apart.items() if any(isinstance(leaf, Tensor) for leaf in own[0])}
    if not apart:
        return [value], lambda others: others[0]

    def rebuilt(others: Sequence[Any]) -> Any:
        left, made = iter(others), copy.copy(value)
        new = {key: build([next(left) for _ in own]) for key, (own, build) in apart.items()}
        for key in [key for key, one in items.items() if id(one) in new]:
            made[key] = new[id(items[key])]
        for name in [name for name, one in named.items() if id(one) in new]:
            object.__setattr__(made, name, new[id(named[name])])
        return made

    return [leaf for own, _ in apart.values() for leaf in own], rebuilt


def _may_hold(value: Any) -> bool:
    return isinstance(value, Tensor | tuple | list | Mapping) or is_dataclass(value)


def readings(own: Sequence[int], sequences: int, steps: int, *, time_first: bool) -> list[Roles]:
    """All that the axes of a tensor can be by their sizes, the likeliest first.

    Args:
        own: the shape returned.
        sequences: batch, of the input.
        steps: T, of the input.
        time_first: whether the module takes (T, batch, ...).
    """
    pairs = [(1, 0), (0, 1)] if time_first else [(0, 1), (1, 0)]
    pairs = [*pairs, (0, 2)] if len(own) == 3 else pairs if len(own) > 1 else []
    by_step: list[Roles] = [(b, t) for b, t in pairs if (own[b], own[t]) == (sequences, steps)]
    # (batch, features), and (layers, batch, features) as torch.nn returns its last states.
    whole: list[Roles] = [(b, None) for b in (0, 1)[: max(1, len(own) - 1)] if own and own[b] == sequences]
    # A matrix is taken for one answer, however many numbers that has, until it is known to grow with the steps.
    return [*whole, *by_step] if len(own) == 2 else [*by_step, *whole]


@dataclass(frozen=True)
class OutputShape:
    """One tensor returned for `sequences` sequences of `steps` steps.

    Its standard form is (batch, T, features) where it has steps, (batch, features) where it has one answer for a whole
    sequence, and a scalar where the module is its own loss. A form that fits none of these stays as it is.
    """

    own: tuple[int, ...]
    """The shape as the module returned it."""
    order: tuple[int, ...]
    """Its axes in the order of the standard form."""
    standard: tuple[int, ...]
    """The shape in standard form."""
    has_sequences: bool
    has_steps: bool
    """Whether it has an answer at every step of the input."""

    @classmethod
    def of(cls, own: Sequence[int], steps: int, roles: Roles) -> OutputShape:
        """The shape `own` for T `steps`, its axes being what `roles` says."""
        batch, time = roles
        axes = tuple(range(len(own)))
        if batch is None:
            return cls(tuple(own), axes, tuple(own), False, False)
        rest = tuple(axis for axis in axes if axis not in roles)
        features = math.prod(own[axis] for axis in rest)
        if time is not None:
            return cls(tuple(own), (batch, time, *rest), (own[batch], steps, features), True, True)
        # As it stands: (batch, features), or steps of another number than those of the input.
        keeps = batch == 0 and len(own) > 1 and (len(own) == 2 or own[1] != steps)
        return cls(tuple(own), (batch, *rest), tuple(own) if keeps else (own[batch], features), True, False)

    def standardised(self, y: Tensor) -> Tensor:
        """The tensor, or a gradient of it, in standard form."""
        return y if self.own == self.standard and self._in_order else y.permute(self.order).reshape(self.standard)

    def as_returned(self, v: Tensor) -> Tensor:
        """A gradient in standard form as the module's own tensor would have it."""
        if self.own == self.standard and self._in_order:
            return v
        placed = v.reshape([self.own[axis] for axis in self.order])
        back = sorted(range(len(self.order)), key=self.order.__getitem__)
        return placed.permute(back)

    @property
    def _in_order(self) -> bool:
        return self.order == tuple(range(len(self.order)))

"""One call of a recurrence inside a user's module: what went in, what came out, and where the graph was opened.

What a recurrence returns is replaced by leaves of equal value, so that a gradient of the loss with respect to them is
what the rest of the module asks of each step, and nothing that came through the recurrence itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence


@dataclass(frozen=True, eq=False)
class Spread:
    """Gradients by step: of the output, (T, batch, features), and of the last state of every unit, (batch, size)."""

    output: Tensor | None
    ends: tuple[Tensor | None, ...]


@dataclass(frozen=True, eq=False)
class Reading:
    """One call, time-major; a unit is one layer in one direction."""

    x: Tensor
    """What it read, (T, batch, features), joined to the module's graph."""
    start: tuple[Tensor, ...]
    """The state it was given, by unit, (batch, size), joined to the graph; () for none, which means zeros."""
    output: Tensor | None
    """What it returned by step, (T, batch, features), as numbers; None for a cell, which returns its state alone."""
    ends: tuple[Tensor, ...]
    """The state it returned, by unit, as numbers."""
    lengths: Tensor | None
    """Steps of every sequence, (batch), where they differ."""
    leaves: tuple[Tensor, ...]
    spread: Callable[[Sequence[Tensor | None]], Spread]
    """Sorts gradients of the leaves by step and unit."""
    given: tuple[Tensor, ...]
    """The state it was given, as its arguments were (h, c), joined to the graph."""
    left: tuple[Tensor, ...]
    """The leaves that stand for the state it returned, in the same form."""
    detached: bool
    """Whether the state it was given wants no gradient."""


def opened(value: Tensor) -> tuple[Tensor, Tensor]:
    """A leaf of the same numbers, and what goes on in its place: a copy, which the module may write into."""
    leaf = value.detach().clone().requires_grad_()
    return leaf, leaf.clone()


def parts_of(state: Any) -> tuple[Tensor, ...]:
    """(h) or (h, c), as they are now, whatever is written into them later."""
    given = () if state is None else (state,) if isinstance(state, Tensor) else tuple(state)
    return tuple(part.clone() for part in given)


def storages(values: Iterable[Tensor]) -> frozenset[int]:
    """Where tensors keep their numbers: the same for a tensor, its views, and what detach makes of it."""
    return frozenset(value.untyped_storage().data_ptr() for value in values if value.numel())


def steps_of(value: Tensor | PackedSequence, batch_first: bool) -> tuple[Tensor, Tensor | None]:
    """(T, batch, features) of what a module of torch.nn takes, and the lengths where sequences were packed."""
    if isinstance(value, PackedSequence):
        padded, lengths = pad_packed_sequence(value)
        return padded, None if bool((lengths == len(padded)).all()) else lengths
    if value.ndim == 2:
        return value[:, None], None
    return (value.transpose(0, 1) if batch_first else value), None


def repacked(data: Tensor, like: PackedSequence) -> PackedSequence:
    """Other numbers in the same packing."""
    return PackedSequence(data, like.batch_sizes, like.sorted_indices, like.unsorted_indices)


def argument(args: tuple[Any, ...], kwargs: dict[str, Any], place: int, name: str) -> Any:
    """An argument by place or name; None when it was not given."""
    return args[place] if len(args) > place else kwargs.get(name)


def zeros_or(value: Tensor | None, like: Tensor) -> Tensor:
    """A gradient, zero where there is none."""
    return torch.zeros_like(like) if value is None else value

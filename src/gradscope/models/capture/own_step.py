"""One step of a user's own cell as a function of rows, whatever the form in which it takes and returns its state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


class OwnStep(nn.Module):
    """The user's cell as step(x, s) -> s on rows: arguments and states side by side, each (batch, numbers)."""

    def __init__(
        self,
        module: nn.Module,
        links: Mapping[int, int],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        axes: Mapping[int, int],
    ) -> None:
        """Take the shapes from one call.

        Args:
            module: the cell.
            links: place of a state among the arguments -> its place in what is returned.
            args: of one call.
            kwargs: of one call.
            axes: which axis of an argument (by place) has the sequences.
        """
        super().__init__()
        self.inner = module
        self.links, self.axes = dict(links), dict(axes)
        self.given, self.form = pytree.tree_flatten((args, kwargs))
        self.rows = [p for p, value in enumerate(self.given) if is_row(value) and p not in links]
        self.shapes = {p: _rows(self.given[p], axes[p]).shape[1:] for p in (*self.rows, *links)}

    def flat(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """X (batch, I) and s (batch, S) of one call."""
        given = pytree.tree_leaves((args, kwargs))
        state = self.joined([given[p] for p in self.links])
        rows = [_rows(given[p], self.axes[p]).flatten(1) for p in self.rows]
        return torch.cat(rows, -1) if rows else state[:, :0], state

    def joined(self, states: Sequence[Tensor]) -> Tensor:
        """The parts of a state side by side, (batch, S)."""
        axes = [self.axes[p] for p in self.links]
        return torch.cat([_rows(part, axis).flatten(1) for part, axis in zip(states, axes, strict=True)], -1)

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        """The new state."""
        given, places = list(self.given), (*self.rows, *self.links)
        widths = [self.shapes[p].numel() for p in places]
        split = (*x.split(widths[: len(self.rows)], -1), *s.split(widths[len(self.rows) :], -1))
        for p, part in zip(places, split, strict=True):
            given[p] = part.reshape(len(part), *self.shapes[p]).movedim(0, self.axes[p])
        args, kwargs = pytree.tree_unflatten(given, self.form)
        returned = pytree.tree_leaves(self.inner(*args, **kwargs))
        return self.joined([returned[q] for q in self.links.values()])

    def is_by_sequence(self) -> bool:
        """Whether a sequence alone is taken where it goes in the batch."""
        args, kwargs = pytree.tree_unflatten(self.given, self.form)
        with torch.no_grad():
            try:
                x, s = self.flat(args, kwargs)
                whole, alone = self(x, s), self(x[-1:], s[-1:])
            except Exception:  # a user's module refuses shapes that it was not made for in any way
                return False
        near = TOLERANCE.get(whole.dtype, 1e-2)
        return alone.shape == s[-1:].shape and torch.allclose(whole[-1:], alone, near, near, equal_nan=True)


def own_step(
    module: nn.Module, links: Mapping[int, int], args: tuple[Any, ...], kwargs: dict[str, Any], batch: int
) -> OwnStep | None:
    """A cell as rows, by trying which axis of its arguments has the sequences; None where none has."""
    given = pytree.tree_leaves((args, kwargs))
    places = [p for p, value in enumerate(given) if is_row(value)]
    possible = [[axis for axis, size in enumerate(given[p].shape) if size == batch and axis < 2] for p in places]
    for axes in product(*possible):
        step = OwnStep(module, links, args, kwargs, dict(zip(places, axes, strict=True)))
        if step.is_by_sequence():
            return step
    return None


def is_row(value: Any) -> bool:
    """Whether it holds numbers that may belong to sequences."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= 1 and value.numel() > 0


def _rows(value: Tensor, axis: int) -> Tensor:
    return value.movedim(axis, 0)

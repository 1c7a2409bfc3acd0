"""How the tensor that a module returns lies: which of its axes holds sequences, which steps, and which the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

Roles = tuple[int | None, int | None]
"""Which axis holds sequences and which steps; None where none does."""


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

    @property
    def is_number(self) -> bool:
        """Whether it is one number for the whole batch."""
        return not self.own

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

"""How the tensor that a module returns lies: which of its axes holds sequences, which steps, and which the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


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
    def of(cls, own: torch.Size, sequences: int, steps: int, *, time_first: bool, by_step: bool) -> OutputShape:
        """Decide what the axes are.

        Args:
            own: the shape returned.
            sequences: batch, of the input.
            steps: T, of the input.
            time_first: whether the module takes (T, batch, ...).
            by_step: whether a matrix with one number for each sequence and step is that, and not `steps` features.
        """
        axes = tuple(range(len(own)))
        pairs = [(1, 0), (0, 1)] if time_first else [(0, 1), (1, 0)]
        if len(own) >= 3 or (len(own) == 2 and by_step):
            for batch, time in [*pairs, (0, 2)] if len(own) == 3 else pairs:
                if (own[batch], own[time]) == (sequences, steps):
                    rest = tuple(axis for axis in axes if axis not in (batch, time))
                    features = math.prod(own[axis] for axis in rest)
                    return cls(tuple(own), (batch, time, *rest), (sequences, steps, features), True, True)
        if own and own[0] == sequences:
            # As it stands: (batch, features), or steps of another number than those of the input.
            standard = (sequences, 1) if len(own) == 1 else tuple(own)
            return cls(tuple(own), axes, standard, True, False)
        if len(own) >= 3 and own[1] == sequences:
            # (layers, batch, features), as torch.nn returns its last states.
            return cls(tuple(own), (1, 0, *axes[2:]), (sequences, math.prod(own) // sequences), True, False)
        return cls(tuple(own), axes, tuple(own), False, False)

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

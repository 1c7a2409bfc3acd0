"""A recurrence that was found, as a layer: its states by the names they have in the user's code, and its Jacobians."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gradscope.forward.lifted import LiftedChain
from gradscope.forward.rows import by_row
from gradscope.forward.state_values import States


@dataclass(eq=False)
class LiftedLayer:
    """One walk of all sequences of a batch."""

    name: str
    length: int
    look: Callable[[], Sequence[tuple[States, list[str], Sequence[int | None], int]]]
    """Values of the states by pass: (s_0 .. s_T by part, names of the parts, batch axis of each part, sequences)."""
    chains: Callable[[], Sequence[LiftedChain]]
    """Its Jacobians, by sequence."""
    begins: int = 0
    """The first step whose state is full; there are Jacobians of the steps after it."""

    sees_input = False

    @cached_property
    def _looked(self) -> Sequence[tuple[States, list[str], Sequence[int | None], int]]:
        return self.look()

    @cached_property
    def values(self) -> Mapping[str, Tensor]:
        """Parts of the state by name, `state.h`, each (T, batch, numbers); NaN where a value is not known."""
        found: dict[str, Tensor] = {}
        for place, name in enumerate(self._looked[0][1]):
            rows = [part for looked in self._looked if (part := self._part(looked, place)) is not None]
            if len(rows) == len(self._looked) and len({row.shape[2] for row in rows}) == 1:
                found[f"state.{name}"] = torch.cat(rows, 1)[1:]
        return found

    def _part(self, looked: tuple[States, list[str], Sequence[int | None], int], place: int) -> Tensor | None:
        """(T + 1, sequences, numbers) of one part in one pass."""
        states, _, axes, rows = looked
        known = [state[place] if place < len(state) else None for state in states]
        # What all sequences share, a first state of zeros for one, is the same in each.
        shown = [None if value is None else by_row(value, axes[place], rows).expand(rows, -1) for value in known]
        like = next((value for value in shown[1:] if value is not None), None)
        if like is None:
            return None
        blank = torch.full_like(like, torch.nan)
        return torch.stack([blank if value is None or value.shape != like.shape else value for value in shown])

    @cached_property
    def states(self) -> Tensor:
        """s_0 .. s_T, (T + 1, batch, numbers); NaN where a value is not known."""
        passes = []
        for looked in self._looked:
            parts = [part for place in range(len(looked[1])) if (part := self._part(looked, place)) is not None]
            passes.append(torch.cat(parts, -1) if parts else torch.full((self.length + 1, looked[3], 1), torch.nan))
        return torch.cat(passes, 1)

    @property
    def outputs(self) -> Tensor:
        """s_1 .. s_T."""
        return self.states[1:]

    def apply(self, at: int, q: Tensor) -> Tensor:
        """J_t Q."""
        return torch.stack([chain.jacobian(at + 1 - self.begins) for chain in self.chains()]) @ q

    def apply_transposed(self, at: int, q: Tensor) -> Tensor:
        """J_t^T Q."""
        return torch.stack([chain.jacobian(at + 1 - self.begins).mT for chain in self.chains()]) @ q

    def jacobians(self, at: slice) -> Tensor:
        """J_t, (batch, n, size, size)."""
        start, stop = at.start - self.begins, at.stop - self.begins
        return torch.cat([chain.dense(start, stop) for chain in self.chains()])

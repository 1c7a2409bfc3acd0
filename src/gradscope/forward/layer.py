"""A recurrence that was found, as a layer: its states by the names they have in the user's code, and its Jacobians."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from gradscope.forward.lifted import LiftedChain
from gradscope.forward.opened import Opened
from gradscope.forward.steps import Walk


class LiftedLayer:
    """One walk of all sequences of a batch."""

    sees_input = False

    def __init__(self, name: str, parts: Sequence[tuple[Opened, Walk, LiftedChain]]) -> None:
        """Take the walk of every sequence."""
        self.name, self.parts = name, parts

    @cached_property
    def _looked(self) -> list[tuple[list[list[Tensor | None]], list[str]]]:
        return [one.states(walk) for one, walk, _ in self.parts]

    @cached_property
    def values(self) -> Mapping[str, Tensor]:
        """Parts of the state by name, `state.h`, each (T, batch, numbers); NaN where a value is not known."""
        found: dict[str, Tensor] = {}
        for place, name in enumerate(self._looked[0][1]):
            rows = [self._part(states[1:], place) for states, _ in self._looked]
            if all(row is not None for row in rows) and len({row.shape for row in rows if row is not None}) == 1:
                found[f"state.{name}"] = torch.stack([row for row in rows if row is not None], 1)
        return found

    def _part(self, states: list[list[Tensor | None]], place: int) -> Tensor | None:
        """(T, numbers) of one part of one sequence."""
        known = [state[place] if place < len(state) else None for state in states]
        like = next((value for value in known if value is not None), None)
        if like is None:
            return None
        blank = torch.full((like.numel(),), torch.nan, dtype=like.dtype, device=like.device)
        rows = [blank if value is None or value.numel() != like.numel() else value.reshape(-1) for value in known]
        return torch.stack(rows)

    @cached_property
    def states(self) -> Tensor:
        """s_0 .. s_T, (T + 1, batch, numbers); NaN where a value is not known."""
        chain = self.parts[0][2]
        found = chain.like.new_full((chain.length + 1, len(self.parts), chain.size), torch.nan)
        for b, (states, _) in enumerate(self._looked):
            for t, state in enumerate(states):
                flat = [value.reshape(-1) for value in state if value is not None]
                if flat and len(flat) == len(state):
                    whole = torch.cat(flat)
                    found[t, b, : len(whole)] = whole
        return found

    @property
    def outputs(self) -> Tensor:
        """s_1 .. s_T."""
        return self.states[1:]

    def apply(self, at: int, q: Tensor) -> Tensor:
        """J_t Q."""
        return torch.stack([chain.jacobian(at + 1) for _, _, chain in self.parts]) @ q

    def apply_transposed(self, at: int, q: Tensor) -> Tensor:
        """J_t^T Q."""
        return torch.stack([chain.jacobian(at + 1).mT for _, _, chain in self.parts]) @ q

    def jacobians(self, at: slice) -> Tensor:
        """J_t, (batch, n, size, size)."""
        return torch.cat([chain.dense(at.start, at.stop) for _, _, chain in self.parts])

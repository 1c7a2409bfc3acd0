"""A recurrence along one pass: its states, and the steps between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from gradscope.forward.execution import Result
from gradscope.forward.graph import Read, Value

State = tuple[Read, ...]
"""The values that a state is made of; None for a number without gradient."""


@dataclass(frozen=True)
class Step:
    """What happens between two states."""

    t: int
    before: State
    after: State
    nodes: tuple[int, ...]
    """Operations, in the order in which they ran."""


@dataclass(frozen=True, eq=False)
class Walk:
    """One recurrence along one pass: s_0, and its steps 1 .. T."""

    level: int
    backwards: bool
    steps: tuple[Step, ...]
    ties: Mapping[Value, tuple[Value, ...]] = field(default_factory=dict)
    """Where s_0 was made in several copies that are one and the same from then on, the others of each."""
    begins: int = 0
    """The first step whose state has all its numbers: later than 0 where the loop begins with a number, with one tensor
    for two parts of the state, or with a delay line that is not yet full."""
    grows: tuple[int, ...] = ()
    """Floats carried by step, where they grow with every step and there is no fixed state; no steps then."""

    missing: frozenset[Result] = frozenset()
    """What calls returned that is part of a state, though nothing the module returns was made of it."""

    @cached_property
    def states(self) -> tuple[State, ...]:
        """s_0 .. s_T."""
        return (self.steps[0].before, *(step.after for step in self.steps))

    @cached_property
    def nodes(self) -> frozenset[int]:
        """Operations of all steps."""
        return frozenset(index for step in self.steps for index in step.nodes)

    @property
    def lost(self) -> tuple[Value, ...]:
        """Of every part that the last state has no value for, the last value that there was."""
        if not self.steps or None not in self.steps[-1].after:
            return ()
        last, found = self.steps[-1].after, []
        for place in (place for place, value in enumerate(last) if value is None):
            like = (state[place] for state in reversed(self.states) if len(state) == len(last))
            found += [value for value in (next((value for value in like if value is not None), None),) if value]
        return tuple(found)

"""A recurrence along one pass: its states, the steps between them, and what the user's code calls them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from gradscope.forward.autograd_graph import Graph, Read, Value
from gradscope.forward.call_sites import Call, values
from gradscope.forward.executed_steps import Result
from gradscope.forward.recorder import Recording
from gradscope.models.whole_module import WholeModule

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

    rests: bool = False
    """Whether a part of it stays as it is at some steps, and what it is after each cannot be told; no steps then."""

    missing: frozenset[Result] = frozenset()
    """What calls returned that is part of a state, though nothing the module returns was made of it."""
    readers: Mapping[tuple[int, int], int] = field(default_factory=dict)
    """At which step outputs read a value that steps made, by the operation and which of its reads, as far as known."""

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


States = list[list[Tensor | None]]


def state_values(
    model: WholeModule, x: Tensor, recording: Recording, graph: Graph, walk: Walk, answers: Sequence[Any] = ()
) -> tuple[States, list[str]]:
    """Values of s_0 .. s_T by one more pass, one tensor or None for every part of the state, and the parts' names."""
    calls = recording.calls

    def call_of(value: Value | None) -> Call | None:
        return None if value is None else calls.get((graph.nodes[value[0]], value[1]))

    wanted = frozenset(call for state in walk.states for value in state if (call := call_of(value)) is not None)
    parts = [call_of(value) for value in walk.steps[(walk.begins + len(walk.steps)) // 2].after]
    look = values(model, x, wanted, frozenset(part for part in parts if part), answers)

    def known(value: Value | None) -> Tensor | None:
        call = call_of(value)
        return _leaf(graph, value) if call is None else look.values.get(call)

    names = [look.names.get(part) if part else None for part in parts]
    states = [[known(value) for value in state] for state in walk.states]
    return states, _distinct([name or f"state{index + 1}" for index, name in enumerate(names)])


def _leaf(graph: Graph, value: Value | None) -> Tensor | None:
    """A value that no call made."""
    if value is None or not graph.is_leaf[value[0]]:
        return None
    found: Tensor = graph.nodes[value[0]].variable.detach()
    return found


def _distinct(names: list[str]) -> list[str]:
    """Names with a number where they are not the only ones."""
    return [name if names.count(name) == 1 else f"{name}#{names[: i + 1].count(name)}" for i, name in enumerate(names)]

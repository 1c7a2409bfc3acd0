"""What the states of a recurrence are, and what the user's code calls them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from gradscope.forward.graph import Graph, Value
from gradscope.forward.look import Call, values
from gradscope.forward.record import Recording
from gradscope.forward.walk import Walk
from gradscope.models.direct import Direct

States = list[list[Tensor | None]]


def state_values(
    model: Direct, x: Tensor, recording: Recording, graph: Graph, walk: Walk, answers: Sequence[Any] = ()
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

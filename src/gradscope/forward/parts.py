"""Which parts of a state hear of each other over a step: layers in one loop do so one way only."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from gradscope.forward.graph import Graph, Read, Value
from gradscope.forward.walk import Step

Places = frozenset[int]
"""Of parts, by their order in the state."""
NONE: Places = frozenset()


class Parts:
    """The parts of the states before and after a step."""

    def __init__(self, graph: Graph, step: Step, places: Mapping[Value, int]) -> None:
        """Take the step, and for each value of the state before its place there."""
        self.graph, self.step, self.places = graph, step, places

    def comes_back(self, sources: Places, index: int) -> bool:
        """Whether what an operation makes of some parts is heard by one of them again, at once or steps later."""
        if len(self.step.before) != len(self.step.after):
            return True
        return any(sources & self.later[place] for place in self._leads.get(index, NONE))

    @cached_property
    def later(self) -> list[Places]:
        """For every part, itself and the parts that hear of it some steps later."""
        edges: list[set[int]] = [set() for _ in self.step.before]
        for place, value in enumerate(self.step.after):
            for source in self._known(value, self._all):
                edges[source].add(place)
        found = []
        for place in range(len(edges)):
            seen, stack = {place}, [place]
            while stack:
                fresh = edges[stack.pop()] - seen
                seen |= fresh
                stack += fresh
            found.append(frozenset(seen))
        return found

    @cached_property
    def _all(self) -> dict[int, Places]:
        """For every operation of the step, the parts before that it depends on."""
        found: dict[int, Places] = {}
        for index in self.step.nodes:
            found[index] = NONE.union(*(self._known(read, found) for read in self.graph.reads[index]))
        return found

    @cached_property
    def _leads(self) -> dict[int, Places]:
        """For every operation of the step, the parts after that depend on it."""
        found: dict[int, Places] = {}
        for place, value in enumerate(self.step.after):
            if value is not None:
                found[value[0]] = found.get(value[0], NONE) | {place}
        for index in reversed(self.step.nodes):
            for read in self.graph.reads[index]:
                if read is not None and read not in self.places:
                    found[read[0]] = found.get(read[0], NONE) | found.get(index, NONE)
        return found

    def _known(self, value: Read, found: dict[int, Places]) -> Places:
        if value is None:
            return NONE
        return frozenset({self.places[value]}) if value in self.places else found.get(value[0], NONE)

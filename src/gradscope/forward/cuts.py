"""The state after step t: the narrowest set of values that everything later has to pass.

A smallest vertex cut between what was there before step t and what is read after it (Menger 1927; found as a maximum
flow). Its weight is the number of floats; among cuts of the same weight the values that live longest are taken, which
are those that the code keeps in its variables: h, and not W h or the sum before tanh.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import cached_property

import networkx as nx

from gradscope.forward.graph import Graph, Value
from gradscope.forward.labels import Labels, Mark

LONGEST = 2**20
"""Lifetimes count less than one float."""


class Crossings:
    """What passes from the steps of one level to later ones."""

    def __init__(self, graph: Graph, labels: Labels, level: int) -> None:
        """Find all values that a later step of the same level reads, where that leads on to steps later still."""
        self.graph, self.labels, self.level = graph, labels, level
        self.newest = self._newest()
        self.at: dict[int, set[Value]] = defaultdict(set)
        """Values made up to step t and read after it, by t."""
        self.longest: int
        """How many steps lie between a value and the last that reads it, at most."""
        reach: dict[Value, int] = {}
        for index, mark in enumerate(labels.marks):
            if mark is None or not self.is_step(mark) or self.newest[index] <= (mark.label or 0):
                continue
            for read in graph.reads[index]:
                before = labels.of(read)
                if read is not None and before is not None and self.is_state(before):
                    reach[read] = max(reach.get(read, 0), mark.label or 0)
        ages = [last - _label(labels, value) for value, last in reach.items() if _label(labels, value)]
        self.longest = max(ages, default=0)
        for value, last in reach.items():
            # What was made before the first step and is read much later is given to all steps, and no state.
            if _label(labels, value) or last <= self.longest:
                for t in range(_label(labels, value), last):
                    self.at[t].add(value)

    def is_step(self, mark: Mark) -> bool:
        """Whether something happens at a step of this level, and not for a collection only."""
        return bool(mark.label) and not mark.pure and not mark.collected and mark.level == self.level

    def is_state(self, mark: Mark) -> bool:
        """Whether a value may be part of the state."""
        return mark.label == 0 or self.is_step(mark)

    def _newest(self) -> list[int]:
        """For every operation, the newest step that it leads to."""
        found = [0] * len(self.graph)
        for index in range(len(self.graph) - 1, -1, -1):
            mark = self.labels.marks[index]
            if mark is None or not self.is_step(mark):
                continue
            own = mark.label or 0
            for user, _ in self.graph.users[index]:
                later = self.labels.marks[user]
                if later is not None and self.is_step(later):
                    own = max(own, found[user])
            found[index] = own
        return found

    def given_out(self, t: int) -> list[Value]:
        """Values of step t that something outside the recurrence reads."""
        found = []
        for index in self._at_step.get(t, ()):
            for user, place in self.graph.users[index]:
                read, mark = self.graph.reads[user][place], self.labels.marks[user]
                inside = mark is not None and self.is_step(mark) and self.newest[user] > (mark.label or 0)
                if not inside and read is not None and read not in found:
                    found.append(read)
        return found

    def read_after(self, t: int) -> set[Value]:
        """Values made up to step t that anything of a later step reads, wherever that leads."""
        found = set()
        for later in [step for step in self._at_step if step > t]:
            for index in self._at_step[later]:
                for read in self.graph.reads[index]:
                    mark = self.labels.of(read)
                    if read is not None and mark is not None and self.is_step(mark) and (mark.label or 0) <= t:
                        found.add(read)
        return found

    def passes(self, state: Iterable[Value | None], t: int) -> bool:
        """Whether all that is read after step t comes through a state."""
        held = set(state)
        stack, seen = list(self.read_after(t)), set()
        while stack:
            value = stack.pop()
            if value in held or value in seen:
                continue
            seen.add(value)
            if _reads_input(self.labels, self.graph.reads[value[0]]):
                return False
            stack += _state_reads(self, value[0])
        return True

    @cached_property
    def _at_step(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = defaultdict(list)
        for index, mark in enumerate(self.labels.marks):
            if mark is not None and self.is_step(mark):
                found[mark.label or 0].append(index)
        return found

    def steps(self) -> list[int]:
        """Steps after which something of an earlier step of this level is read."""
        return sorted(t for t, values in self.at.items() if any(self._is_made(value) for value in values))

    def _is_made(self, value: Value) -> bool:
        mark = self.labels.of(value)
        return mark is not None and bool(mark.label)


def narrowest(
    crossings: Crossings, t: int, lifetime: Callable[[Value], int], *, at_the_end: bool = False
) -> list[Value]:
    """The state after step t, in the order in which it was made.

    What the step gives to the outputs is to come out of the state as well, where that makes it no wider: y_t = C s_t.
    At the end, where nothing comes after, it is what the outputs need.
    """
    needed = set(crossings.at[t])
    if not needed and at_the_end:
        needed = crossings.read_after(t) or set(crossings.given_out(t))
    if not any(_made(crossings.labels, value) for value in needed):
        return []
    found = _cut(crossings, needed, lifetime)
    for value in crossings.given_out(t):
        if value in needed:
            continue
        more = _cut(crossings, needed | {value}, lifetime)
        if _floats(crossings.graph, more) <= _floats(crossings.graph, found):
            needed, found = needed | {value}, more
    return found


def _floats(graph: Graph, values: Iterable[Value]) -> int:
    return sum(graph.shape(value).numel() for value in values)


def _cut(crossings: Crossings, sinks: set[Value], lifetime: Callable[[Value], int]) -> list[Value]:
    """The smallest set of values that every path from before to the sinks has to pass."""
    graph, labels = crossings.graph, crossings.labels
    oldest = min(_label(labels, value) for value in sinks)
    net = nx.DiGraph()
    stack, seen = list(sinks), set(sinks)
    while stack:
        value = stack.pop()
        size = graph.shape(value).numel() * LONGEST + LONGEST - min(lifetime(value), LONGEST - 1)
        if "StopBackward" in graph.names[value[0]]:
            # The state is what is detached, so that the detach belongs to the step that does it.
            size += LONGEST // 2
        net.add_edge((value, "in"), (value, "out"), capacity=size)
        if value in sinks:
            net.add_edge((value, "out"), "after")
        inner = _state_reads(crossings, value[0])
        if not inner or _label(labels, value) < oldest or _reads_input(labels, graph.reads[value[0]]):
            # What reads this step's input can be reached without the state before, and no cut lies above it.
            net.add_edge("before", (value, "in"))
            continue
        for read in inner:
            net.add_edge((read, "out"), (value, "in"))
            if read not in seen:
                seen.add(read)
                stack.append(read)
    _, (reached, _) = nx.minimum_cut(net, "before", "after")
    return sorted(value for value in seen if (value, "in") in reached and (value, "out") not in reached)


def _made(labels: Labels, value: Value) -> bool:
    mark = labels.of(value)
    return mark is not None and bool(mark.label)


def _label(labels: Labels, value: Value) -> int:
    mark = labels.of(value)
    return 0 if mark is None else mark.label or 0


def _state_reads(crossings: Crossings, index: int) -> list[Value]:
    labels = crossings.labels
    return [
        read
        for read in crossings.graph.reads[index]
        if read is not None and (mark := labels.of(read)) is not None and crossings.is_step(mark)
    ]


def _reads_input(labels: Labels, reads: Iterable[Value | None]) -> bool:
    return any((mark := labels.of(read)) is not None and mark.pure for read in reads)

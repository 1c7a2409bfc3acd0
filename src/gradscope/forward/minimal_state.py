"""The state after step t: the narrowest set of values that everything later has to pass.

A smallest vertex cut between what was there before step t and what is read after it (Menger 1927; found as a maximum
flow). Its weight is the number of floats. Among cuts of the same weight the newest is meant, as the values stand when
the code begins the next step. Where the code does not tell when that is, the values that live longest are taken, which
are those that are kept in variables: h, and not W h or the sum before tanh.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Sequence
from functools import cached_property

import networkx as nx

from gradscope.forward.autograd_graph import VIEWS, Graph, Value
from gradscope.forward.executed_steps import Executed, Turns
from gradscope.forward.step_labels import StepLabel, StepLabels

LONGEST = 2**20
"""Lifetimes count less than one float."""


class Crossings:
    """What passes from the steps of one level to later ones."""

    def __init__(self, graph: Graph, labels: StepLabels, level: int, executed: Executed | None = None) -> None:
        """Find all values that a later step of the same level reads, where that leads on to steps later still."""
        self.graph, self.labels, self.level, self.code = graph, labels, level, executed
        self.places: set[tuple[object, ...]] = set()
        """Where in the code states are made, as what; nothing where the code does not tell."""
        self.turns, self._when = self._executed(executed)
        self.ordered = self.turns is not None
        self.newest = self._newest(self._when)
        self.at: dict[int, set[Value]] = defaultdict(set)
        """Values made up to step t and read after it, by t."""
        self.longest = 0
        """How many steps lie between a value and the last that reads it, at most."""
        reach = self._reach()
        if self.ordered:
            # What is made where states are made is one, though no step reads it before the next begins anew.
            self.places = {self.place(value) for value in reach if self._is_made(value)} or self._returning()
            self.newest = self._newest(self._when)
            reach = self._reach()
        ages = [last - self.when(value) for value, last in reach.items() if self._is_made(value)]
        self.longest = max(ages, default=0)
        for value, last in reach.items():
            # What was made before the first step and is read much later is given to all steps, and no state.
            if self._is_made(value) or last <= self.longest or self._is_of_loop(value):
                for t in range(self.when(value), last):
                    self.at[t].add(value)
        self.readers = self._given_by()
        """At which step outputs read a value that steps made, by the operation and which of its reads."""
        read = [(self.graph.reads[index][place], t) for (index, place), t in self.readers.items()]
        # What the module returns is read when all steps are over.
        read += [((index, 0), labels.steps) for index, users in enumerate(graph.users) if not users]
        for given, t in read:
            if given is not None and self.is_step_value(given) and self.rests(given, t):
                for step in range(self.when(given), t):
                    self.at[step].add(given)

    def _is_of_loop(self, value: Value) -> bool:
        """Whether a step made a value, though of no input: a first state that was masked, and rests."""
        return self.ordered and value[0] >= self.labels.begun and self.when(value) > 0

    def _given_by(self) -> dict[tuple[int, int], int]:
        """After the loop as many reads as there are steps are one for each; others read what the last step left."""
        if self.turns is None or self.code is None:
            return {}
        reads = [
            (index, place)
            for index in range(len(self.graph))
            if self.turns.step(self.code.calls[index]) and not self._leads_on(index)
            for place, read in enumerate(self.graph.reads[index])
            if read is not None and self.is_step_value(read) and not self._is_past(read[0])
        ]
        count = self.labels.steps
        found = {(index, place): self._when[index] for index, place in reads}
        past = [one for one in reads if self._is_past(one[0])]
        # What rests from the beginning is no value of a step.
        more = [
            (index, place)
            for index in range(len(self.graph))
            if self._is_past(index)
            for place, read in enumerate(self.graph.reads[index])
            if read is not None and not self.graph.is_leaf[read[0]] and not self._is_past(read[0])
        ]
        past = more if len(more) == count else past
        behind = count - len(past) if self.labels.enough <= len(past) <= count else None
        return found | {one: count if behind is None else t + behind for t, one in enumerate(past, 1)}

    def _leads_on(self, index: int) -> bool:
        return self._is_inside(index, self._when) and self.newest[index] > self._when[index]

    def rests(self, value: Value, t: int) -> bool:
        """Whether the code made nothing newer where it made a value, up to step t."""
        place = None if self.turns is None else self.turns.place(value, t)
        return self.turns is not None and place is not None and self.turns.is_newest(place, t)

    def _reach(self) -> dict[Value, int]:
        """For every value that a later step reads and that leads on from there, the last such step."""
        found: dict[Value, int] = {}
        for index, own in enumerate(self._when):
            if not self._is_inside(index, self._when) or self.newest[index] <= own:
                continue
            for read in self.graph.reads[index]:
                mark = self.labels.of(read)
                if read is None or mark is None or self.when(read) >= own:
                    continue
                if self.is_state(mark) or self.is_anew(read):
                    found[read] = max(found.get(read, 0), own)
        return found

    def _returning(self) -> set[tuple[object, ...]]:
        """Places in the code that are led to from what was made there one step before, and no further: a restart comes.

        A state that begins anew before every other step leads on to no later step.
        """
        found: set[tuple[object, ...]] = set()
        for index, own in enumerate(self._when):
            if not self._is_inside(index, self._when):
                continue
            older = [read for read in self.graph.reads[index] if read is not None and 0 < self.when(read) < own]
            places = {self.place(read) for read in older if self.is_step_value(read)} - found
            stack, seen = [index] if places else [], set[int]()
            while stack:
                place = self.place((at := stack.pop(), 0))
                found |= {place} & places
                new = {user for user, _ in self.graph.users[at] if self._when[user] == own} - seen
                seen |= new
                stack += new
        return found

    def is_step_value(self, value: Value) -> bool:
        """Whether a value is made by a step of this level."""
        mark = self.labels.of(value)
        return mark is not None and self.is_step(mark)

    def is_anew(self, value: Value) -> bool:
        """Whether a value made of one input alone is a state that begins anew: it is made where states are made."""
        mark = self.labels.of(value)
        return mark is not None and mark.pure and mark.level == self.level and self.place(value) in self.places

    def place(self, value: Value) -> tuple[object, ...]:
        """Where in the code a value is made, as what."""
        position = () if self.code is None else self.code.position(value[0])
        return position, self.graph.names[value[0]], value[1], self.graph.shape(value)

    def _executed(self, executed: Executed | None) -> tuple[Turns | None, list[int]]:
        """The steps of the code where they are known, and those of all operations; else those of what they read."""
        marks = self.labels.marks
        own = [index for index, mark in enumerate(marks) if mark is not None and self.is_step(mark)]
        labels = [0 if mark is None else mark.label or 0 for mark in marks]
        firsts: dict[int, int] = {}
        for index in own:
            firsts.setdefault(labels[index], index)
        turns = None if executed is None else executed.turns(firsts, self.labels.steps)
        if executed is None or turns is None:
            return None, labels
        found = [turns.step(call) for call in executed.calls]
        if not self._is_one_loop(found, labels, own):
            return None, labels
        for index, mark in enumerate(marks):
            if mark is not None and mark.label == 0:
                found[index] = self._made_at(index, found)
        return turns, found

    def _made_at(self, index: int, found: Sequence[int]) -> int:
        """A leaf for a state that is made anew is there when it is first read, and a view of it as soon as that."""
        if self.graph.is_leaf[index]:
            return min((found[user] for user, _ in self.graph.users[index]), default=found[index])
        source = self.graph.reads[index][0] if len(self.graph.reads[index]) == 1 else None
        return found[source[0]] if source is not None and self.graph.names[index] in VIEWS else found[index]

    def _is_one_loop(self, found: Sequence[int], labels: list[int], own: Sequence[int]) -> bool:
        """Whether the order of the code is that of the steps, and no layer runs after all steps of the one before."""
        newest, at = self._newest(labels), defaultdict[int, set[int]](set)
        for index in own:
            if found[index] < labels[index]:
                return False
            if newest[index] > labels[index]:
                at[found[index]].add(labels[index])
        last = max(at, default=0)
        if len(at) < 2:
            return True
        # A detach at the last steps alone makes what was read one step before, and no layer runs again for that.
        alike = len(at[last]) <= max(len(read) for step, read in at.items() if step != last)
        return alike or last - min(at[last]) <= 1

    def when(self, value: Value) -> int:
        """The step that a value is made at."""
        return self._when[value[0]]

    def same_place(self, a: Value, b: Value) -> bool:
        """Whether two values were made at one place in the code, or nothing is known of that."""
        return self.code is None or self.code.position(a[0]) == self.code.position(b[0])

    def is_step(self, mark: StepLabel) -> bool:
        """Whether something happens at a step of this level, and not for a collection only."""
        return bool(mark.label) and not mark.pure and not mark.collected and mark.level == self.level

    def is_state(self, mark: StepLabel) -> bool:
        """Whether a value may be part of the state."""
        return mark.label == 0 or self.is_step(mark)

    def _newest(self, when: Sequence[int]) -> list[int]:
        """For every operation, the newest step that it leads to."""
        found = [0] * len(self.graph)
        for index in range(len(self.graph) - 1, -1, -1):
            if self._is_inside(index, when):
                users = (found[user] for user, _ in self.graph.users[index] if self._is_inside(user, when))
                leads = when[index] + 1 if self.places and self.place((index, 0)) in self.places else when[index]
                found[index] = max([leads, *users])
        return found

    def _is_inside(self, index: int, when: Sequence[int]) -> bool:
        """Whether an operation is made by a step of this level, of what is older than the steps included."""
        mark = self.labels.marks[index]
        if mark is None or mark.label is None:
            return False
        older = (mark.level == self.level or not mark.label) and not mark.collected and mark.label < when[index]
        return self.is_step(mark) or older

    def given_out(self, t: int) -> list[Value]:
        """Values of step t that something outside the recurrence reads."""
        found = []
        for index in self._at_step.get(t, ()):
            for user, place in self.graph.users[index]:
                read, mark = self.graph.reads[user][place], self.labels.marks[user]
                inside = mark is not None and self.is_step(mark) and self.newest[user] > self._when[user]
                if not inside and read is not None and read not in found:
                    found.append(read)
        return found

    def leaving(self, t: int) -> set[Value]:
        """Values of step t that something outside the steps reads, or nothing, as what the module returns."""
        found = set[Value]()
        for index in self._at_step.get(t, ()):
            for user, place in self.graph.users[index]:
                read, mark = self.graph.reads[user][place], self.labels.marks[user]
                if read is not None and (mark is None or not self.is_step(mark)):
                    found.add(read)
            if not self.graph.users[index]:
                found.add((index, 0))
        return found

    def read_after(self, t: int, among: Container[int] | None = None) -> set[Value]:
        """Values made up to step t that anything of a later step reads, of all operations or `among` some."""
        found = set()
        for later in [step for step in self._at_step if step > t]:
            for index in self._at_step[later]:
                if self._is_past(index) or (among is not None and index not in among):
                    continue
                for read in self.graph.reads[index]:
                    mark = self.labels.of(read)
                    if read is None or mark is None or self.when(read) > t:
                        continue
                    if self.is_step(mark) or self.is_anew(read):
                        found.add(read)
        return found

    def _is_past(self, index: int) -> bool:
        """Whether an operation came after the loop: outputs may read every state there."""
        return self.turns is not None and self.code is not None and self.code.calls[index] > self.turns.end

    def holds(self, state: Iterable[Value | None], t: int) -> bool:
        """Whether all that crosses the end of step t comes out of a state."""
        held = set(state)
        stack, seen = list(self.at[t]), set()
        while stack:
            value = stack.pop()
            if value in held or value in seen:
                continue
            seen.add(value)
            inner = _state_reads(self, value[0])
            if not inner or _reads_input(self.labels, self.graph.reads[value[0]]):
                return False
            stack += inner
        return True

    def passes(self, state: Iterable[Value | None], t: int, among: Container[int] | None = None) -> bool:
        """Whether all that is read after step t, by all operations or `among` some, comes through a state."""
        held = set(state)
        stack, seen = list(self.read_after(t, among)), set()
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
            if mark is not None and (self.is_step(mark) or self.is_anew((index, 0))):
                found[self._when[index]].append(index)
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


def leaving(crossings: Crossings, t: int, lifetime: Callable[[Value], int]) -> list[Value]:
    """The narrowest set of values that all has to pass that the module returns of step t, where that is the last."""
    needed = crossings.leaving(t)
    return _cut(crossings, needed, lifetime) if any(_made(crossings.labels, value) for value in needed) else []


def _floats(graph: Graph, values: Iterable[Value]) -> int:
    return sum(graph.shape(value).numel() for value in values)


def _cut(crossings: Crossings, sinks: set[Value], lifetime: Callable[[Value], int]) -> list[Value]:
    """The smallest set of values that every path from before to the sinks has to pass."""
    graph, labels = crossings.graph, crossings.labels
    oldest = min(crossings.when(value) for value in sinks)
    net = nx.DiGraph()
    stack, seen = list(sinks), set(sinks)
    while stack:
        value = stack.pop()
        size = graph.shape(value).numel() * LONGEST
        if not crossings.ordered:
            size += LONGEST - min(lifetime(value), LONGEST - 1)
            if "StopBackward" in graph.names[value[0]]:
                # The state is what is detached, so that the detach belongs to the step that does it.
                size += LONGEST // 2
        net.add_edge((value, "in"), (value, "out"), capacity=size)
        if value in sinks:
            net.add_edge((value, "out"), "after")
        inner = _state_reads(crossings, value[0])
        reads = graph.reads[value[0]]
        begins = any((mark := labels.of(read)) is not None and mark.label == 0 for read in reads)
        if not inner or begins or crossings.when(value) < oldest or _reads_input(labels, reads):
            # What reads this step's input, or a first state, can be reached otherwise, and no cut lies above it.
            net.add_edge("before", (value, "in"))
            continue
        for read in inner:
            net.add_edge((read, "out"), (value, "in"))
            if read not in seen:
                seen.add(read)
                stack.append(read)
    # Of several, networkx tells the one that is nearest to the sinks.
    _, (reached, _) = nx.minimum_cut(net, "before", "after")
    cut = (value for value in seen if (value, "in") in reached and (value, "out") not in reached)
    return sorted({viewed(crossings, value) for value in cut} if crossings.ordered else cut)


def viewed(crossings: Crossings, value: Value) -> Value:
    """What a value is a mere view of, where that is made at the same step."""
    graph = crossings.graph
    while graph.names[value[0]] in VIEWS and len(graph.reads[value[0]]) == 1:
        (source,) = graph.reads[value[0]]
        mark = crossings.labels.of(source)
        if source is None or mark is None or not crossings.is_step(mark):
            break
        if crossings.when(source) != crossings.when(value) or graph.shape(source).numel() != graph.shape(value).numel():
            break
        value = source
    return value


def _made(labels: StepLabels, value: Value) -> bool:
    mark = labels.of(value)
    return mark is not None and bool(mark.label)


def _state_reads(crossings: Crossings, index: int) -> list[Value]:
    labels = crossings.labels
    return [
        read
        for read in crossings.graph.reads[index]
        if read is not None and (mark := labels.of(read)) is not None and crossings.is_step(mark)
    ]


def _reads_input(labels: StepLabels, reads: Iterable[Value | None], step: int | None = None) -> bool:
    """Whether something made of one step's input alone is among what is read; of a given step, where one is given."""
    marks = (labels.of(read) for read in reads)
    return any(mark is not None and mark.pure and step in (None, mark.label) for mark in marks)

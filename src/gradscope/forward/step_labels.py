"""At which step every value of a pass is made: the newest input that it has read.

A value is *whole* while it carries all steps at once (the input, and what is made of it before a loop begins), *given*
when it depends on no input, and has a *label* from where one step is taken out of a whole. What depends on labelled
values has the newest label among them; what collects all of them (a stack of outputs) is whole again, one level up.
A layer that walks the sequence again once the one below is done, handing on a list, is one level up too, and what it
reads of the one below is its input.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from gradscope.forward.autograd_graph import PRODUCTS, WRITES, Graph, Value
from gradscope.forward.time_index import TimeIndex

COLLECT = frozenset({"StackBackward0", "CatBackward0"})
ACCUMULATE = WRITES | {"AddBackward0", "CatBackward0"}
SPARE = 2
"""Steps that a collection may lack and still be one of all steps; fewer of short sequences."""
LEVELS = 8
RUN = 3
"""Steps in a row after which something that is only added to counts as a running collection."""
CLIMB = 3
"""Steps of a loop from which on its order alone tells it from a last step that reads the one before."""


@dataclass(frozen=True, slots=True)
class StepLabel:
    """What is known of a value; None stands for one that depends on no input."""

    label: int | None
    """The step; 0 for a state that the module makes; None for a whole."""
    pure: bool = False
    """Whether it is made of one step's input alone, and so at hand at any time."""
    level: int = 0
    collected: frozenset[int] = frozenset()
    """Labels of what a running collection (a sum, a buffer, a list) holds."""


ALL_STEPS = StepLabel(None)


class StepLabels:
    """Marks of all values of a graph."""

    def __init__(
        self, graph: Graph, leaf: int | None, starts: Sequence[int], picks: TimeIndex, *, wholes: Sequence[int] = ()
    ) -> None:
        """Walk the graph once.

        Args:
            graph: of the pass.
            leaf: the operation that stands for the input.
            starts: those that stand for states the module made.
            picks: knows which step a piece of a whole is.
            wholes: those that stand for what recurrences returned, all steps at once.
        """
        self.graph, self.picks = graph, picks
        self.steps = picks.steps
        self.marks: list[StepLabel | None] = [None] * len(graph)
        self.apart: dict[Value, StepLabel] = {}
        """Marks of results that differ from the operation's others (unbind)."""
        self._links = _links(graph)
        self._running: frozenset[int] = frozenset()
        self._first: dict[int | None, StepLabel] = {
            leaf: ALL_STEPS,
            **dict.fromkeys(starts, StepLabel(0)),
            **dict.fromkeys(wholes, StepLabel(None, level=1)),
        }
        self._floors: list[tuple[int, int]] = []
        """From which operation on what is made by steps is of which level at least."""
        self._walk()
        self._collect()
        while len(self._floors) < LEVELS and (floors := self._find_floors()):
            self._floors = sorted({*self._floors, *floors})
            self._walk()
            self._collect()
        graph.products = frozenset(
            index
            for index, name in enumerate(graph.names)
            if name in PRODUCTS and self.of(graph.reads[index][PRODUCTS[name] + 1]) is None
        )

    def _walk(self) -> None:
        self.apart.clear()
        for index in range(len(self.graph)):
            self.marks[index] = self._first[index] if index in self._first else self._mark(index)

    def _collect(self) -> None:
        """Mark running collections until there are no more: a loop is known once what those before it made is."""
        while not (found := self._find_running()) <= self._running:
            self._running |= found
            self._walk()

    def _find_running(self) -> frozenset[int]:
        """Operations that carry on a collection: link by link, each at a newer step than the one before."""
        runs: dict[int, list[int]] = {}
        for index, place in self._links.items():
            before, mark = self.graph.reads[index][place], self.marks[index]
            earlier = None if before is None else self.of(before)
            carried = runs.pop(before[0], None) if before is not None else None
            if mark is None or not mark.label or mark.pure:
                continue
            newer = earlier is not None and not earlier.pure and (earlier.label or 0) < mark.label
            # A step may put in several things, one after the other.
            again = earlier is not None and not earlier.pure and earlier.label == mark.label
            if carried is not None and (newer or again):
                runs[index] = [*carried, index]
            elif before is None or newer:
                runs[index] = [index]
        steps = {end: {mark.label for index in run if (mark := self.marks[index])} for end, run in runs.items()}
        return frozenset(index for end, run in runs.items() if len(steps[end]) >= RUN for index in run)

    def _find_floors(self) -> list[tuple[int, int]]:
        """Where loops of one level begin again at the first step, once the one before has come to the last."""
        by_level: dict[int, list[tuple[int, int, bool]]] = defaultdict(list)
        for index, mark in enumerate(self.marks):
            if mark is not None and mark.label and not mark.pure and not mark.collected:
                anew = any((own := self.of(read)) is not None and own.label == 0 for read in self.graph.reads[index])
                by_level[mark.level].append((index, mark.label, anew))
        for level, ran in sorted(by_level.items()):
            if begins := _begun_again(ran):
                return [(index, level + nr) for nr, index in enumerate(begins, 1)]
        return []

    def _floor(self, index: int) -> int:
        place = bisect_right(self._floors, index, key=lambda floor: floor[0])
        return self._floors[place - 1][1] if place else 0

    @cached_property
    def begun(self) -> int:
        """The first operation that reads a step's own input."""
        return next(
            (index for index, mark in enumerate(self.marks) if mark is not None and mark.label), len(self.graph)
        )

    def of(self, value: Value | None) -> StepLabel | None:
        """The mark of a value."""
        if value is None:
            return None
        return self.apart.get(value, self.marks[value[0]])

    def _mark(self, index: int) -> StepLabel | None:
        reads = self.graph.reads[index]
        marks = [mark for read in reads if (mark := self._read(read)) is not None]
        if not marks:
            return None
        whole = [mark for mark in marks if mark.label is None]
        if len(whole) == len(marks) == 1 and (picked := self._picked(index, marks[0])) is not None:
            return picked
        steps = [mark for mark in marks if mark.label]
        if not steps:
            return StepLabel(None, level=max(mark.level for mark in whole)) if whole else StepLabel(0)
        if (gathered := self._gathered(index, steps)) is not None:
            return gathered
        return self._newest(marks, steps, self._floor(index))

    def _read(self, read: Value | None) -> StepLabel | None:
        """The mark of what is read; a collection that is complete is a whole."""
        mark = self.of(read)
        if mark is None or not mark.collected:
            return mark
        return self._complete(mark)

    @property
    def enough(self) -> int:
        """How many steps a collection of all of them holds at least: more than the state of a layer and its input."""
        return max(2, self.steps - min(SPARE, self.steps // 4))

    def _complete(self, mark: StepLabel) -> StepLabel:
        if len(mark.collected) >= self.enough:
            return StepLabel(None, level=mark.level + 1)
        return StepLabel(max(mark.collected), level=mark.level)

    def _picked(self, index: int, whole: StepLabel) -> StepLabel | None:
        """A piece of a whole, if it is one step."""
        found = self.picks.steps_of(self.graph, index, whole.level)
        if found is None:
            return None
        for nr, step in enumerate(found[1:], 1):
            self.apart[index, nr] = StepLabel(step, pure=True, level=whole.level)
        return StepLabel(found[0], pure=True, level=whole.level)

    def _gathered(self, index: int, steps: list[StepLabel]) -> StepLabel | None:
        """A collection, if it is one: a link of a running one, or all at once."""
        level = max(mark.level for mark in steps)
        if index in self._running:
            link = self._links[index]
            before = self.of(self.graph.reads[index][link])
            others = [
                m for p, r in enumerate(self.graph.reads[index]) if p != link and (m := self._read(r)) is not None
            ]
            own = frozenset() if before is None else before.collected or frozenset({before.label or 0} - {0})
            return StepLabel(None, level=level, collected=own | {mark.label for mark in others if mark.label})
        if self.graph.names[index] in COLLECT:
            held = frozenset(mark.label for mark in steps if mark.label)
            if len(held) >= self.enough or self._rests(index):
                return StepLabel(None, level=level + 1)
        return None

    def _rests(self, index: int) -> bool:
        """Whether a collection holds one value of every step, some of which stay as they are over several."""
        reads = self.graph.reads[index]
        labels = [0 if (mark := self._read(read)) is None else mark.label or 0 for read in reads]
        shapes = {self.graph.shape(read) for read in reads if read is not None}
        ordered = all(a <= b for a, b in pairwise(labels)) and labels[-1] - labels[0] >= self.steps // 2
        return len(reads) >= max(self.enough, SPARE) and len(shapes) == 1 and ordered

    def _newest(self, marks: list[StepLabel], steps: list[StepLabel], floor: int) -> StepLabel:
        """The newest label among those of the highest level."""
        level = max(mark.level for mark in marks)
        if floor and floor >= level:
            # What a loop reads of those before it, step by step, is its input.
            steps = [StepLabel(mark.label, pure=True, level=floor) if mark.level < floor else mark for mark in steps]
            level = floor
        top = [mark for mark in steps if mark.level == level or mark.pure]
        if not top:
            return StepLabel(None, level=level)
        pure = [mark.label or 0 for mark in top if mark.pure]
        mixed = [mark.label or 0 for mark in top if not mark.pure]
        if pure and mixed and max(pure) < max(mixed) - max(2, self.steps // 2) and level < LEVELS:
            # Another loop begins at the first steps again: what it takes over from the one before is given.
            return StepLabel(max(pure), level=level + 1)
        begun = any(mark.label == 0 for mark in marks)
        return StepLabel(max(pure + mixed), pure=not mixed and not begun and len(set(pure)) == 1, level=level)


def _begun_again(ran: Sequence[tuple[int, int, bool]]) -> list[int]:
    """The operations from which on another loop runs.

    A loop begins at the first step and goes on to the last without leaving one out. What only reads an older state
    looks like a step back too, but then its loop goes on at its own step at once; of few steps that tells nothing, and
    a loop is one that begins with a state.

    Args:
        ran: operations in the order in which they ran, their steps, and whether they read a state that was made.
    """
    labels = [label for _, label, _ in ran]
    order = sorted(set(labels))
    first, last, after = order[0], order[-1], dict(pairwise(order))

    def climbs(start: int) -> bool:
        newest, begun = first, len(order) >= CLIMB
        for _, label, anew in ran[start:]:
            begun = begun or (anew and label == first)
            if label > newest:
                if label != after[newest] or not begun:
                    return False
                newest = label
            if newest == last:
                return True
        return False

    found: list[int] = []
    done = False
    for place, label in enumerate(labels if len(order) > 1 and labels[0] == first else ()):
        if done and label == first and climbs(place):
            found.append(ran[place - 1][0] + 1)
            done = False
        done = done or label == last
    return found


def _links(graph: Graph) -> dict[int, int]:
    """For operations that may carry on a running collection, at which of its reads the collection is."""
    found = {}
    for index, name in enumerate(graph.names):
        if name not in ACCUMULATE:
            continue
        for place, read in enumerate(graph.reads[index]):
            if read is None:
                # A buffer of plain numbers that the first step is written into.
                if name in WRITES and place == 0:
                    found[index] = place
                continue
            alone = len(graph.users[read[0]]) == 1
            same = place == 0 if name in WRITES else graph.names[read[0]] == name
            if alone and same:
                found[index] = place
                break
    return found

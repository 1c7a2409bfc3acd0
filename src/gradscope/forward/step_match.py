"""Whether one step of a loop is like another: their operations laid on each other, from either end."""

from __future__ import annotations

from collections.abc import Sequence

from gradscope.forward.autograd_graph import VIEWS, Graph, Read, Value
from gradscope.forward.minimal_state import Crossings
from gradscope.forward.step_labels import StepLabels
from gradscope.forward.walk import State, Step

PICKING = frozenset({"IndexBackward0", "MaskedSelectBackward0", "IndexSelectBackward0"})
"""Operations whose results may have as many rows as some numbers say."""


class StepMatch:
    """One step laid on another, from its end."""

    def __init__(self, crossings: Crossings, kind: Step, t: int) -> None:
        self.graph, self.labels, self.kind, self.t = crossings.graph, crossings.labels, kind, t
        self.when = crossings.when
        self.slots: dict[Value, Read] = {}
        self.nodes: dict[int, int] = {}
        self.ties: dict[Value, list[Value]] = {}
        self.made: dict[tuple[Read, ...], Value] = {}
        self.first: list[Value] = []
        """At step 1, what stands where a state would be put together from its parts."""
        self.before = frozenset(value for value in kind.before if value is not None)
        self.own = frozenset(kind.nodes)

    def unify(self, there: Read, here: Read) -> bool:
        """Whether a value of the known step and one of this step are made in the same way."""
        stack = [(there, here)]
        while stack:
            a, b = stack.pop()
            if a in self.before:
                assert a is not None
                made = self.labels.of(b)
                if b is not None and made is not None and self.when(b) >= self.t:
                    # Made by this step, so no part of the state before it.
                    return False
                if self.t > 1 and made is not None and made.label == 0 and not self._is_early(b):
                    return False
                if b is not None and self.graph.names[b[0]].startswith("StopBackward"):
                    return False
                if self.slots.setdefault(a, b) != b and not self._tied(self.slots[a], b):
                    return False
                continue
            if a is None or a[0] not in self.own:
                if not self._alike(a, b):
                    return False
                continue
            if b is None or b[1] != a[1] or self.graph.names[a[0]] != self.graph.names[b[0]]:
                slot = self._alone(a)
                if slot is not None and b is not None and self._fills(slot, b):
                    if self.slots.setdefault(slot, b) != b and not self._tied(self.slots[slot], b):
                        return False
                elif not self._begins(b) or b is None:
                    return False
                else:
                    self._put_together(a, b)
                continue
            if a[0] in self.nodes:
                if self.nodes[a[0]] != b[0]:
                    return False
                continue
            reads_a, reads_b = self.graph.reads[a[0]], self.graph.reads[b[0]]
            if len(reads_a) != len(reads_b) or not self._shaped_alike(a, b):
                return False
            self.nodes[a[0]] = b[0]
            stack += zip(reads_a, reads_b, strict=True)
        return True

    def _shaped_alike(self, a: Value, b: Value) -> bool:
        """Whether values are of one shape; of rows or units that a mask picks there may be more at one step."""
        (*there,), (*here,) = self.graph.shape(a), self.graph.shape(b)
        if there == here or len(there) != len(here) or there[1:] != here[1:]:
            return there == here
        return not PICKING.isdisjoint(self.graph.names)

    def _alone(self, a: Value) -> Read:
        """The part of the state that a value of the known step is a mere view of."""
        value: Read = a
        while value is not None and value not in self.before and self.graph.names[value[0]] in VIEWS:
            read = self.graph.reads[value[0]]
            value = read[0] if len(read) == 1 else None
        return value if value in self.before else None

    def _fills(self, slot: Value, b: Value) -> bool:
        """Whether a value that the first step begins with has as many numbers as a part of the state."""
        mark = self.labels.of(b)
        begins = self._is_early(b) or (self.t == 1 and (mark is None or not mark.label))
        return begins and self.graph.shape(slot).numel() == self.graph.shape(b).numel()

    def _tied(self, a: Read, b: Read) -> bool:
        """Whether both are copies of one state that was made in the beginning."""
        if self.t > 1 or a is None or b is None or not self._fills(a, b):
            return False
        if b not in self.ties.setdefault(a, []):
            self.ties[a].append(b)
        return True

    def _begins(self, b: Read) -> bool:
        """Whether a value is what the first step begins with: a state that was made, learned, or given."""
        mark = self.labels.of(b)
        return self._is_early(b) or (self.t == 1 and (mark is None or not mark.label))

    def _is_early(self, b: Read) -> bool:
        """Whether a value is a state that was made before the first step."""
        mark = self.labels.of(b)
        return b is not None and mark is not None and mark.label == 0 and b[0] < self.labels.begun

    def _put_together(self, a: Value, b: Value) -> None:
        """Note a state of several parts that the first step is given whole; copies of the same parts are one."""
        parts = self.graph.reads[a[0]]
        key = parts if all(part in self.before for part in parts) else (a,)
        made = self.made.setdefault(key, b)
        if made == b:
            if b not in self.first:
                self.first.append(b)
        elif self.graph.shape(made) == self.graph.shape(b) and b not in self.ties.setdefault(made, []):
            self.ties[made].append(b)

    def _alike(self, a: Read, b: Read) -> bool:
        """What a step reads beside its state: its own input, weights, and what is given to all steps."""
        known, other = self.labels.of(a), self.labels.of(b)
        if known is None or other is None:
            return known is other and same_weight(self.graph, a, b)
        if known.label is None or other.label is None:
            return known.label is other.label
        if known.pure and other.label and not other.pure:
            # A step that begins anew reads its input alone.
            return False
        return known.label - self.kind.t == other.label - self.t or known.label == other.label == 0


def carried_on(graph: Graph, labels: StepLabels, kind: Step, last: Step) -> State | None:
    """The state after the step that follows `last`, if operations follow each other as they do in `kind`."""
    values: dict[Read, Read] = dict(zip(kind.before, last.after, strict=True))
    taken: set[int] = set()
    for index in kind.nodes:
        known = [(place, values[read]) for place, read in enumerate(graph.reads[index]) if read in values]
        if not known or any(value is None for _, value in known):
            continue
        user = _user(graph, labels, index, known, last.t + 1 - kind.t)
        if user is None or user in taken:
            # At the last step, what only a later step would have read was never made part of the graph.
            continue
        taken.add(user)
        values |= {(index, nr): (user, nr) for nr in range(graph.results(index))}
    found = tuple(values.get(value) for value in kind.after)
    return found if any(value is not None and value[0] in taken for value in found) else None


def _user(graph: Graph, labels: StepLabels, index: int, known: Sequence[tuple[int, Read]], later: int) -> int | None:
    """The operation that reads known values as another one, `later` steps before, does.

    Of several that do, the one that stands where that one stands among those that read what it reads.
    """
    place, value = known[0]
    there = graph.reads[index][place]
    if value is None or there is None:
        return None
    models = [user for user, at in graph.users[there[0]] if at == place and _alike(graph, labels, index, user, 0)]
    found = [
        user
        for user, at in graph.users[value[0]]
        if at == place
        and _alike(graph, labels, index, user, later)
        and all(graph.reads[user][p] == v for p, v in known)
    ]
    rank = models.index(index)
    return None if not found else found[min(rank, len(found) - 1)]


def _alike(graph: Graph, labels: StepLabels, index: int, other: int, later: int) -> bool:
    """Whether two operations are called the same, read as many values and the same weights, `later` steps apart."""
    own, mark = labels.marks[index], labels.marks[other]
    reads, others = graph.reads[index], graph.reads[other]
    if graph.names[index] != graph.names[other] or len(reads) != len(others) or own is None or mark is None:
        return False
    if own.label is None or mark.label is None or mark.label != own.label + later:
        return False
    pairs = zip(reads, others, strict=True)
    return all(same_weight(graph, a, b) for a, b in pairs if labels.of(a) is None and labels.of(b) is None)


def same_weight(graph: Graph, a: Read, b: Read) -> bool:
    """Whether two values that depend on no input are made in the same way from the same parameters."""
    if a is None or b is None:
        return a is b
    return a[1] == b[1] and graph.recipe(a[0]) == graph.recipe(b[0])

"""The steps of a loop: what is made between one state and the next, found once and recognised at every other step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

from gradscope.forward.cuts import Crossings, narrowest
from gradscope.forward.graph import Graph, Read, Value
from gradscope.forward.labels import Labels

VIEWS = frozenset(
    f"{name}Backward0" for name in ("Stack", "Select", "View", "Unsqueeze", "Squeeze", "Clone", "Alias", "UnsafeView")
)
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
    repeats: int
    """How many steps are like another one, operation by operation."""
    ties: Mapping[Value, tuple[Value, ...]] = field(default_factory=dict)
    """Where s_0 was made in several copies that are one and the same from then on, the others of each."""
    grows: tuple[int, ...] = ()
    """Floats carried by step, where they grow with every step and there is no fixed state; no steps then."""

    @cached_property
    def states(self) -> tuple[State, ...]:
        """s_0 .. s_T."""
        return (self.steps[0].before, *(step.after for step in self.steps))


class Lifting:
    """Takes a loop of one level apart."""

    def __init__(self, graph: Graph, labels: Labels, level: int, lifetime: Callable[[Value], int]) -> None:
        self.graph, self.labels, self.lifetime, self.level = graph, labels, lifetime, level
        self.crossings = Crossings(graph, labels, level)
        self.kinds: list[Step] = []
        """Steps unlike each other."""
        self.repeats = 0
        self.ties: dict[Value, tuple[Value, ...]] = {}

    def walk(self, backwards: bool) -> Walk | None:
        """The recurrence; None where no step reads what an earlier one made."""
        steps = self.crossings.steps()
        if len(steps) < 2 and not (steps and self.labels.steps <= 3):
            return None
        if grown := self._growth(steps):
            return Walk(self.level, backwards, (), 0, grows=grown)
        # The newest steps are not read any more by all that would read them if there were more.
        settled = steps[-1] - self.crossings.longest
        last = max((t for t in steps if t <= settled), default=steps[-1])
        state: State = tuple(narrowest(self.crossings, last, self.lifetime))
        found: list[Step] = []
        for t in range(last, 0, -1):
            step = self._step(t, state)
            found.append(step)
            state = step.before
        found.reverse()
        while (more := self._following(found[-1]) or self._unlike(found[-1])) is not None:
            found.append(more)
        return Walk(self.level, backwards, tuple(self._filled(found)), self.repeats, self.ties)

    def _unlike(self, last: Step) -> Step | None:
        """The step after the last one known, where it is like no other."""
        after: State = tuple(narrowest(self.crossings, last.t + 1, self.lifetime, at_the_end=True))
        if not after or last.t >= self.labels.steps:
            return None
        step = Step(last.t + 1, last.after, after, self._between(last.after, after))
        self.kinds.append(step)
        return step

    def _filled(self, steps: Sequence[Step]) -> list[Step]:
        """States that nothing reads, since a restart follows, as the steps that lead to them tell what they are."""
        found: list[Step] = []
        for step in steps:
            before = found[-1] if found else None
            if before is not None and not step.before and before.after:
                step = replace(step, before=before.after)
            if before is not None and not step.after and before.after and (more := self._following(before)) is not None:
                step = more
            found.append(step)
        return found

    def _growth(self, steps: Sequence[int]) -> tuple[int, ...]:
        """Floats carried by step, if they only ever grow."""
        probed = [steps[i * (len(steps) - 1) // 4] for i in range(5)]
        sizes = [self._floats(t) for t in probed]
        if len(steps) < 8 or not all(a < b for a, b in pairwise(sizes)):
            return ()
        return tuple(self._floats(t) for t in steps)

    def _floats(self, t: int) -> int:
        return sum(self.graph.shape(v).numel() for v in narrowest(self.crossings, t, self.lifetime))

    def _step(self, t: int, after: State) -> Step:
        """The step that ends in a state, and so the state before."""
        for place, kind in enumerate(self.kinds):
            if (found := self._recognised(kind, t, after)) is not None:
                self.kinds.insert(0, self.kinds.pop(place))
                self.repeats += 1
                return found
        before: State = tuple(narrowest(self.crossings, t - 1, self.lifetime)) if t > 1 else self._made_before(after)
        step = Step(t, before, after, self._between(before, after))
        if t > 1 and after:
            self.kinds.insert(0, step)
        return step

    def _first(self, kind: Step, match: _Match) -> State:
        """s_0, where it was made in another form than the states after it; nothing where it has other numbers."""
        bound = tuple(dict.fromkeys(match.slots.values()))
        whole = tuple(value for key, value in match.made.items() if set(key) <= match.before)
        fitting = (bound + one for one in (tuple(match.first), whole))
        return next((state for state in fitting if self._numbers(state) == self._numbers(kind.before)), ())

    def _numbers(self, state: State) -> int:
        return sum(self.graph.shape(value).numel() for value in state if value is not None)

    def _made_before(self, after: State) -> State:
        """States that the module made, in what the first step reads, if they have as many numbers as later ones."""
        found: list[Value] = []
        stack, seen = [value for value in after if value is not None], set()
        while stack:
            index = stack.pop()[0]
            for read in self.graph.reads[index]:
                mark = self.labels.of(read)
                if read is None or mark is None or read in seen or mark.label is None or mark.pure:
                    continue
                seen.add(read)
                made = mark.label == 0 and all(r is None or self.graph.is_leaf[r[0]] for r in self.graph.reads[read[0]])
                (found if made else stack).append(read)
        return tuple(found) if self._numbers(tuple(found)) == self._numbers(after) else ()

    def _between(self, before: State, after: State) -> tuple[int, ...]:
        """Operations of a step: all that leads to `after` and is made of this level's values, up to `before`."""
        found: set[int] = set()
        stack = [value for value in after if value is not None and value not in before]
        while stack:
            value = stack.pop()
            mark = self.labels.of(value)
            begins = mark is not None and mark.label == 0 and not self.graph.is_leaf[value[0]]
            if value[0] in found or mark is None or not (begins or self.crossings.is_step(mark)):
                continue
            found.add(value[0])
            stack += [read for read in self.graph.reads[value[0]] if read is not None and read not in before]
        return tuple(sorted(found))

    def _recognised(self, kind: Step, t: int, after: State) -> Step | None:
        """The step that ends in `after`, if it is like `kind`."""
        if len(kind.after) != len(after):
            return None
        match = _Match(self.graph, self.labels, kind, t)
        for there, here in zip(kind.after, after, strict=True):
            if here is not None and not match.unify(there, here):
                return None
        before: State = tuple(None if value is None else match.slots.get(value) for value in kind.before)
        missing = any(value not in match.slots for value in kind.before)
        if missing and t > 1 and None not in after:
            return None
        if missing and t == 1:
            before = self._first(kind, match)
        # A value that stands for several parts at once is one part.
        before = tuple(dict.fromkeys(before))
        if t == 1:
            self.ties = {value: tuple(others) for value, others in match.ties.items()}
        return Step(t, before, after, tuple(sorted(match.nodes.values())))

    def _following(self, last: Step) -> Step | None:
        """The step after the last one known, if it is like one of the others: nothing reads its state any more."""
        for kind in self.kinds if last.t < self.labels.steps else ():
            if len(kind.before) != len(last.after):
                continue
            after = _carried_on(self.graph, self.labels, kind, last)
            found = None if after is None else self._recognised(kind, last.t + 1, after)
            same = found is not None and all(a in (None, b) for a, b in zip(found.before, last.after, strict=True))
            if found is not None and same and self.crossings.passes(found.after, found.t):
                self.repeats += 1
                return replace(found, before=last.after)
        return None


class _Match:
    """One step laid on another, from its end."""

    def __init__(self, graph: Graph, labels: Labels, kind: Step, t: int) -> None:
        self.graph, self.labels, self.kind, self.t = graph, labels, kind, t
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
            if len(reads_a) != len(reads_b) or self.graph.shape(a) != self.graph.shape(b):
                return False
            self.nodes[a[0]] = b[0]
            stack += zip(reads_a, reads_b, strict=True)
        return True

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
        return known.label - self.kind.t == other.label - self.t or known.label == other.label == 0


def _carried_on(graph: Graph, labels: Labels, kind: Step, last: Step) -> State | None:
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


def _user(graph: Graph, labels: Labels, index: int, known: Sequence[tuple[int, Read]], later: int) -> int | None:
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


def _alike(graph: Graph, labels: Labels, index: int, other: int, later: int) -> bool:
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
    return a[1] == b[1] and graph.recipes[a[0]] == graph.recipes[b[0]]


def levels(labels: Labels) -> list[int]:
    """Levels at which something happens by steps."""
    return sorted({mark.level for mark in labels.marks if mark is not None and mark.label and not mark.pure})

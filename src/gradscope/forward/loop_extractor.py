"""Taking a loop apart: what is made between one state and the next is found once and recognised at every other step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import chain, pairwise

from gradscope.forward.autograd_graph import Graph, Read, Value
from gradscope.forward.executed_steps import Executed, Place, Result, Turns
from gradscope.forward.minimal_state import Crossings, leaving, narrowest
from gradscope.forward.step_labels import StepLabels
from gradscope.forward.step_match import StepMatch, carried_on
from gradscope.forward.walk import State, Step, Walk

SHORT = 4
"""Steps of a sequence up to which one that reads what the one before made is enough to be a recurrence."""
PROBED = 9
"""Steps whose states are looked at to learn where in the code states are made."""


class LoopExtractor:
    """Takes a loop of one level apart."""

    def __init__(
        self,
        graph: Graph,
        labels: StepLabels,
        level: int,
        lifetime: Callable[[Value], int],
        executed: Executed | None = None,
    ) -> None:
        self.graph, self.labels, self.lifetime, self.level = graph, labels, lifetime, level
        self.crossings = Crossings(graph, labels, level, executed)
        self.kinds: list[Step] = []
        """Steps unlike each other."""
        self.missing: set[Result] = set()
        """What calls returned that is part of a state, though the graph does not lead to it."""
        self.ties: dict[Value, tuple[Value, ...]] = {}

    def walk(self, backwards: bool) -> Walk | None:
        """The recurrence; None where no step reads what an earlier made, or no state is all that goes on (a tree)."""
        steps = self.crossings.steps()
        if len(steps) < 2 and not (steps and self.labels.steps <= SHORT):
            return None
        if grown := self._growth(steps):
            return Walk(self.level, backwards, (), grows=grown)
        filled = tuple(self._placed(steps) or self._matched(steps))
        begins = self._begins(filled)
        among = self._leading_to([value for step in filled for value in step.after])
        if not all(self._is_passed(step, among) for step in filled[begins:-1]):
            return None
        return Walk(self.level, backwards, filled, self.ties, begins, missing=frozenset(self.missing))

    def _is_passed(self, step: Step, among: set[int]) -> bool:
        """Whether all that later states are made of comes through the state after a step, where that is known."""
        return not step.after or None in step.after or self.crossings.passes(step.after, step.t, among)

    def _leading_to(self, values: Iterable[Value | None]) -> set[int]:
        """Operations that some of the values are made by, near or far."""
        found, stack = set[int](), [value[0] for value in values if value is not None]
        while stack:
            index = stack.pop()
            if index not in found:
                found.add(index)
                stack += [read[0] for read in self.graph.reads[index] if read is not None]
        return found

    def _placed(self, steps: Sequence[int]) -> list[Step]:
        """Steps between states that are made at the same places in the code; none where that is not so at all of them.

        So the state after the last step, and one before a restart, is known though nothing reads it.
        """
        turns = self.crossings.turns
        if turns is None:
            return []
        cuts = [tuple(narrowest(self.crossings, t, self.lifetime)) for t in self._probed(steps)]
        kinds = Counter(
            tuple(turns.place(value, t) for value in cut) for t, cut in zip(self._probed(steps), cuts, strict=True)
        )
        known = [[place for place in places if place] for places, _ in kinds.most_common() if None not in places]
        found = (self._made_at(places, turns, turns.result) for places in known if places)
        # A part that some steps leave as it is was made fewer steps ago at some of them than at others.
        kept = (self._made_at(places, turns, turns.latest) for places in known if places)
        return next((steps for steps in chain(found, kept) if steps), [])

    def _made_at(
        self, places: Sequence[Place], turns: Turns, result_of: Callable[[Place, int], Result | None]
    ) -> list[Step]:
        """Steps between the states that are made at these places; none where more than these is read later."""
        count = min(len(turns.begins), self.labels.steps)
        first = next((t for t in range(1, count + 1) if None not in [result_of(place, t) for place in places]), count)
        states: dict[int, State] = {}
        missing: set[Result] = set()
        for t in range(first, count + 1):
            results = [result_of(place, t) for place in places]
            if None in results or len(set(results)) < len(results):
                return []
            states[t] = tuple(turns.value(result) for result in results if result)
            if any((mark := self.labels.of(value)) is not None and mark.level != self.level for value in states[t]):
                return []
            missing |= {result for result in results if result and turns.value(result) is None}
            if t < count and not self.crossings.holds(states[t], t):
                return []
        pairs = [(t, states[t - 1], states[t]) for t in states if t > first]
        found = [Step(t, before, after, self._between(before, after)) for t, before, after in pairs]
        self.kinds = [step for step in found if None not in (*step.before, *step.after)][:PROBED]
        self.missing = missing
        state = states[first]
        for t in range(first, 0, -1):
            found.insert(0, self._step(t, state))
            state = found[0].before
        return found

    @staticmethod
    def _probed(steps: Sequence[int]) -> list[int]:
        """Steps that lie evenly among all."""
        return sorted({steps[i * (len(steps) - 1) // (PROBED - 1)] for i in range(PROBED)})

    def _matched(self, steps: Sequence[int]) -> list[Step]:
        """Steps that are like each other, operation by operation."""
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
        return self._filled(found)

    def _begins(self, steps: Sequence[Step]) -> int:
        """The first step whose state has all its numbers, each made before the next step and counted once."""
        # What the last step leaves is read by the outputs alone, and no state that is handed on.
        whole = max(self._numbers(step.before) for step in steps)
        for step in steps:
            state = step.before
            made = [value for value in state if value is not None]
            early = all(self.labels.of(value) is None or self.crossings.when(value) < step.t for value in made)
            if self._numbers(state) == whole and len(set(made)) == len(state) and early:
                return step.t - 1
        return 0

    def _unlike(self, last: Step) -> Step | None:
        """The step after the last one known, where it is like no other."""
        after: State = tuple(narrowest(self.crossings, last.t + 1, self.lifetime, at_the_end=True))
        if self._numbers(after) > self._numbers(last.after):
            # A last step that makes no state any more has no narrow place for all of it, but for what is read of it.
            after = tuple(leaving(self.crossings, last.t + 1, self.lifetime)) or after
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
        if t == 1 and (made := self._begun_with(after)):
            return Step(t, made, after, self._between(made, after))
        for place, kind in enumerate(self.kinds):
            if (found := self._recognised(kind, t, after)) is not None:
                self.kinds.insert(0, self.kinds.pop(place))
                if t > 1 or found.before or not (made := self._made_before(after)):
                    return found
                return Step(t, made, after, self._between(made, after))
        before: State = tuple(narrowest(self.crossings, t - 1, self.lifetime)) if t > 1 else self._made_before(after)
        before = self._aligned(before, after)
        step = Step(t, before, after, self._between(before, after))
        if t > 1 and after:
            self.kinds.insert(0, step)
        return step

    def _first(self, kind: Step, match: StepMatch) -> State:
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

    def _begun_with(self, after: State) -> State:
        """States that the module made before the first step, where they have the numbers of the state after it."""
        if not self.crossings.ordered:
            return ()
        made = tuple(sorted(self.crossings.at[0]))
        if self._numbers(made) != self._numbers(after):
            return ()
        return self._by_use(made, after) or self._aligned(made, after)

    def _by_use(self, made: State, after: State) -> State:
        """Parts in the order in which the first step uses them as later ones do: their shapes may be alike."""
        for kind in self.kinds:
            match = StepMatch(self.crossings, kind, 1)
            if len(kind.after) == len(after) and all(map(match.unify, kind.after, after)):
                used: State = tuple(match.slots.get(value) for value in kind.before if value is not None)
                if len(used) == len(made) and set(used) == set(made):
                    return used
        return ()

    def _aligned(self, before: State, after: State) -> State:
        """A state's parts in the order of the state after it: what is made alike, what stays, what has its shape."""
        left = list(before)
        found: list[Read] = [None] * len(after)
        for alike in (self._made_alike, self._stays, self._shaped_alike):
            for place, value in enumerate(after):
                one = next((own for own in left if found[place] is None and alike(own, value)), None)
                if one is not None:
                    found[place] = one
                    left.remove(one)
        return before if left or None in found else tuple(found)

    @staticmethod
    def _stays(own: Read, value: Read) -> bool:
        return own == value

    def _made_alike(self, own: Read, value: Read) -> bool:
        if own is None or value is None or own[1] != value[1] or not self._shaped_alike(own, value):
            return False
        return self.graph.names[own[0]] == self.graph.names[value[0]] and self.crossings.same_place(own, value)

    def _shaped_alike(self, own: Read, value: Read) -> bool:
        return own is not None and value is not None and self.graph.shape(own) == self.graph.shape(value)

    def _between(self, before: State, after: State) -> tuple[int, ...]:
        """Operations of a step: all that leads to `after` and is made of this level's values, up to `before`."""
        found: set[int] = set()
        begun = {value for value in before if value is not None}
        oldest = min((self.crossings.when(value) for value in begun), default=0)
        stack = [value for value in after if value is not None and value not in begun]
        while stack:
            value = stack.pop()
            mark = self.labels.of(value)
            if value[0] in found or mark is None or mark.label is None or self.graph.is_leaf[value[0]]:
                continue
            made_here = mark.pure and mark.level == self.level and self.crossings.when(value) >= oldest
            if made_here or self._is_inside(value[0]):
                found.add(value[0])
                stack += [read for read in self.graph.reads[value[0]] if read is not None and read not in begun]
        nodes: set[int] = set()
        for index in sorted(found):
            # After a step that began with a learned state even what reads that step is made of one input alone.
            reads = self.graph.reads[index]
            if self._is_inside(index) or any(read in begun or (read and read[0] in nodes) for read in reads):
                nodes.add(index)
        return tuple(sorted(nodes))

    def _is_inside(self, index: int) -> bool:
        mark = self.labels.marks[index]
        return mark is not None and (mark.label == 0 or self.crossings.is_step(mark))

    def _recognised(self, kind: Step, t: int, after: State) -> Step | None:
        """The step that ends in `after`, if it is like `kind`."""
        if len(kind.after) != len(after):
            return None
        match = StepMatch(self.crossings, kind, t)
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
        """The step after the last one known, if it is like one of the others: nothing reads its state any more.

        Of several, which may leave parts as they are, the one whose new parts are read where the step gives something
        out, and whose others are not.
        """
        found: list[tuple[int, Step]] = []
        read = set(self.crossings.given_out(last.t + 1))
        for kind in self.kinds if last.t < self.labels.steps else ():
            if len(kind.before) != len(last.after):
                continue
            after = carried_on(self.graph, self.labels, kind, last)
            step = None if after is None else self._recognised(kind, last.t + 1, after)
            same = step is not None and all(a in (None, b) for a, b in zip(step.before, last.after, strict=True))
            if step is not None and same and self.crossings.passes(step.after, step.t):
                new = {value for value in step.after if value is not None and value not in last.after}
                found.append((len(new & read) - len(new - read), replace(step, before=last.after)))
        return max(found, key=lambda one: one[0])[1] if found else None


def levels(labels: StepLabels) -> list[int]:
    """Levels at which something happens by steps."""
    return sorted({mark.level for mark in labels.marks if mark is not None and mark.label and not mark.pure})

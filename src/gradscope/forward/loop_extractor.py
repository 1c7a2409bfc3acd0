"""Taking a loop apart: what is made between one state and the next is found once and recognised at every other step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from typing import TypeVar

from gradscope.forward.autograd_graph import Graph, Read, Value
from gradscope.forward.executed_steps import Executed, Result, Site, Turns
from gradscope.forward.minimal_state import Crossings, leaving, narrowest, viewed
from gradscope.forward.step_labels import StepLabels
from gradscope.forward.step_match import StepMatch, carried_on
from gradscope.forward.walk import State, Step, Walk

SHORT = 4
"""Steps of a sequence up to which one that reads what the one before made is enough to be a recurrence."""
PROBED = 9
"""Steps whose states are looked at to learn where in the code states are made."""
LOOKED_AT = 40
"""The same where states are not made at the same places at all of them: the first so many too."""
Where = TypeVar("Where")
"""How a part of the state is found at a step."""


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
        self.is_partial = False
        """Whether the first step begins with more than its state, in place of what later steps compute from theirs."""

    def walk(self, backwards: bool) -> Walk | None:
        """The recurrence; None where no step reads what an earlier made, or no state is all that goes on (a tree)."""
        steps = self.crossings.steps()
        if len(steps) < 2 and not (steps and self.labels.steps <= SHORT):
            return None
        if grown := self._growth(steps):
            return Walk(self.level, backwards, (), grows=grown)
        placed = self._placed(steps)
        if not placed and self._rests(steps):
            return Walk(self.level, backwards, (), rests=True)
        filled = tuple(placed or self._matched(steps))
        begins = self._begins(filled)
        among = self._leading_to([value for step in filled for value in step.after])
        if not all(self._is_passed(step, among) for step in filled[begins:-1]):
            return None
        readers = self.crossings.readers
        return Walk(self.level, backwards, filled, self.ties, begins, missing=frozenset(self.missing), readers=readers)

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
        cuts = {t: tuple(narrowest(self.crossings, t, self.lifetime)) for t in self._probed(steps)}
        kinds = Counter(tuple(turns.place(value, t) for value in cut) for t, cut in cuts.items())
        known = [[place for place in places if place] for places, _ in kinds.most_common() if None not in places]
        found = (self._made_at(places, turns, turns.result) for places in known if places)
        exact = next((steps for steps in found if steps), [])
        if exact and self._agree(exact, cuts):
            return exact
        return self._resting(steps, turns, cuts) or ([] if self._rests(steps) else exact)

    def _rests(self, steps: Sequence[int]) -> bool:
        """Whether some step leaves as it is what later ones read, and nothing newer is made where it was made."""
        crossings = self.crossings
        return any(
            crossings.is_step_value(value) and crossings.when(value) < t and crossings.rests(value, t)
            for t in steps
            for value in crossings.at[t]
        )

    def leaves_out(self) -> bool:
        """Whether the code makes states at fewer places at some step than before and after it, of layers by layer."""
        crossings = self.crossings
        if crossings.code is None or (crossings.turns is not None and not crossings.turns.runs_again):
            return False
        crossing = {value for values in crossings.at.values() for value in values if crossings.is_step_value(value)}
        places = {crossings.place(value) for value in crossing}
        made: dict[tuple[object, ...], Counter[int]] = {place: Counter() for place in places}
        for index, mark in enumerate(self.labels.marks):
            if mark is not None and mark.label and (place := crossings.place((index, 0))) in made:
                made[place][mark.label] += 1
        # A loop of a stride makes nothing at all at the steps between.
        walked = sorted({t for counts in made.values() for t in counts})
        return any(_dips([counts[t] for t in walked]) for counts in made.values())

    def _agree(self, found: Sequence[Step], cuts: Mapping[int, State]) -> bool:
        """Whether the states are the newest of their size wherever that is known."""
        states = {step.t: step.after for step in found}
        return not any(
            self._numbers(states[t]) == self._numbers(cut) and {*states[t]} - {None} != {*cut}
            for t, cut in cuts.items()
            if t in states
        )

    def _resting(self, steps: Sequence[int], turns: Turns, cuts: Mapping[int, State]) -> list[Step]:
        """Steps of which some leave parts of the state as they are, or make them at another place in the code."""
        few = steps[:LOOKED_AT]
        more = {t: cuts.get(t) or tuple(narrowest(self.crossings, t, self.lifetime)) for t in {*few, *cuts}}
        # What is read later may be more than what has to be, and before a part was made the first time less has to be.
        held = {t: tuple(sorted({viewed(self.crossings, value) for value in self.crossings.at[t]})) for t in more}
        widest, wide = max(map(self._numbers, more.values())), list[Step]()
        for kept in (held, more):
            parts = self._parts(turns, dict(sorted(kept.items())))
            results = [turns.kept(sites) for sites in parts]
            found = self._made_at(results, turns, turns.newest, self._given(results, turns)) if results else []
            if found and self._agree(found, more):
                if self._numbers(found[-1].before) <= widest:
                    return found
                wide = wide or found
        return wide

    def _parts(self, turns: Turns, cuts: Mapping[int, State]) -> list[set[Site]]:
        """By part of the state, all places in the code where it is made; nothing where that cannot be told.

        Places are of one part where one makes its value of the other's older one alone; two that stand side by side in
        some state are of two parts.
        """
        placed = {
            value: place[1:] for t, cut in cuts.items() for value in cut if value and (place := turns.place(value, t))
        }
        shapes = {placed[value]: self.graph.shape(value) for value in placed}
        known = ([value and placed.get(value) for value in cut] for cut in cuts.values())
        apart = {frozenset(pair) for places in known for pair in combinations(places, 2)}
        groups: list[set[Site]] = [{one} for one in shapes]
        made = {value: (site, step) for site in shapes for value, step in turns.values(site).items()}

        def fit(a: set[Site], b: set[Site]) -> bool:
            return not any(frozenset((one, other)) in apart or shapes[one] != shapes[other] for one in a for other in b)

        sources = {value: self._made_of(value, made) for value in made}
        for value, source in sources.items():
            if len(source) == 1 and made[next(iter(source))][1] < made[value][1]:
                a, b = (next(group for group in groups if made[v][0] in group) for v in (*source, value))
                if a is not b and fit(a, b):
                    groups.remove(b)
                    a |= b
        for value, source in sources.items():
            mine = next(group for group in groups if made[value][0] in group)
            for other in source:
                theirs = next(group for group in groups if made[other][0] in group)
                alike = mine is not theirs and made[other][1] == made[value][1] and fit(mine, theirs)
                if alike and not self._starts(value, made):
                    # Made of it within one step, and never beside it: another part, or what comes of this one.
                    return []
        return groups

    def _given(self, parts: Sequence[Sequence[Result]], turns: Turns) -> list[Value]:
        """The first state that the module made of each part, where all have one of their own; else nothing."""
        firsts = [value for results in parts if (value := turns.value(results[0])) is not None]
        held = {value for results in parts for result in results if (value := turns.value(result)) is not None}
        found = [
            [start for start in self._starts(value, held) if self.graph.shape(start) == self.graph.shape(value)]
            for value in firsts
        ]
        own = [starts[0] for starts in found if len(starts) == 1]
        return own if len(own) == len(parts) == len(set(own)) else []

    def _starts(self, value: Value, held: Container[Value]) -> list[Value]:
        """First states that a value is made of, where none of some others comes between."""
        found, stack, seen = list[Value](), [value], set[Value]()
        while stack:
            for read in self.graph.reads[stack.pop()[0]]:
                mark = self.labels.of(read)
                if read is None or mark is None or read in seen or read in held:
                    continue
                seen.add(read)
                if mark.label == 0 and read[0] < self.labels.begun:
                    found.append(read)
                else:
                    stack += [read] if self.crossings.is_state(mark) or mark.pure else []
        return found

    def _made_of(self, value: Value, held: Container[Value]) -> set[Value]:
        """Those of some values that another is made of."""
        found, stack, seen = set[Value](), [value], set[Value]()
        while stack:
            for read in self.graph.reads[stack.pop()[0]]:
                if read is None or read in seen or not self.crossings.is_step_value(read):
                    continue
                seen.add(read)
                if read in held:
                    found.add(read)
                else:
                    stack.append(read)
        return found

    def _made_at(
        self,
        places: Sequence[Where],
        turns: Turns,
        result_of: Callable[[Where, int], Result | None],
        given: Sequence[Value] = (),
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
        for t in range(first - 1, -1, -1) if given else ():
            known = [result_of(place, t) for place in places]
            states[t] = tuple(turns.value(one) if one else start for one, start in zip(known, given, strict=True))
            first = t
        states = dict(sorted(states.items()))
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
        """Steps that lie evenly among all, and some that follow each other: a part may rest at every other."""
        middle = len(steps) // 2
        even = {steps[i * (len(steps) - 1) // (PROBED - 1)] for i in range(PROBED)}
        return sorted(even | {*steps[max(0, middle - 1) : middle + 3]})

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
        for step in steps[int(self.is_partial) :]:
            state = step.before
            made = [value for value in state if value is not None]
            early = all(self._is_there(value, step.t) for value in made)
            if self._numbers(state) == whole and len(set(made)) == len(state) and early:
                return step.t - 1
        return 0

    def _is_there(self, value: Value, t: int) -> bool:
        """Whether a value was made before step t: a first state that rests may be read long after."""
        mark = self.labels.of(value)
        return mark is None or self.crossings.when(value) < t or (mark.label == 0 and value[0] < self.labels.begun)

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
        # A first state that is given whole may be like anything.
        tried = (
            (place, kind, whole)
            for whole in (False, True)[: 2 if t == 1 else 1]
            for place, kind in enumerate(self.kinds)
        )
        for place, kind, whole in tried:
            if (found := self._recognised(kind, t, after, whole=whole)) is not None:
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
        # What is made of a learned first state that rests is made of no input.
        learned = any(self.labels.of(value) is None for value in begun)
        stack = [value for value in after if value is not None and value not in begun]
        while stack:
            value = stack.pop()
            mark = self.labels.of(value)
            if value[0] in found or self.graph.is_leaf[value[0]] or (mark is None and not learned):
                continue
            if mark is not None and mark.label is None:
                continue
            made_here = mark and mark.pure and mark.level == self.level and self.crossings.when(value) >= oldest
            if mark is None or made_here or self._is_inside(value[0]):
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

    def _recognised(self, kind: Step, t: int, after: State, *, whole: bool = True) -> Step | None:
        """The step that ends in `after`, if it is like `kind`; `whole` where its first state may be given whole."""
        if len(kind.after) != len(after):
            return None
        match = StepMatch(self.crossings, kind, t)
        for there, here in zip(kind.after, after, strict=True):
            if here is not None and not match.unify(there, here):
                return None
        if match.first and not whole:
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
            self.is_partial = not {*match.made.values()} <= {*before}
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


def _dips(counts: Sequence[int]) -> bool:
    """Whether some number is smaller than one before and one after it."""
    return any(
        count < min(max(counts[:place], default=0), max(counts[place + 1 :], default=0))
        for place, count in enumerate(counts)
    )


def levels(labels: StepLabels) -> list[int]:
    """Levels at which something happens by steps."""
    return sorted({mark.level for mark in labels.marks if mark is not None and mark.label and not mark.pure})

"""At which step of a loop every operation was executed, told by the places in the code that the calls came from.

The newest input that a value has read says when it could be made at the earliest. A mask, a reset or `W h` reads the
old state alone and is made by the step after; that shows only in the order in which the code ran. Inside one turn of a
loop the places of its calls go forwards; the turn begins at the foremost of them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

from gradscope.forward.autograd_graph import Graph, Value

Position = tuple[int, ...]
"""The instruction that a call came from, in the frame of every function on the way to it, outermost first."""
Result = tuple[int, int]
"""Which call, and which of its results."""
Site = tuple[Position, int, int]
"""Where in the code a value is made, how many calls of its step had come from there before, and which of the call's
results it is."""
Place = tuple[int, Position, int, int]
"""How many steps ago a value was made, where in the code, how many calls of that step had come from there before, and
which of the call's results it is."""


@dataclass(frozen=True)
class Executed:
    """A pass by the order of its calls."""

    calls: Sequence[int]
    """For every operation of the graph, the call that made it."""
    positions: Sequence[Position]
    """For every call, where it came from; the first call is number 1."""
    results: Mapping[Value, Result] = field(default_factory=dict)
    """Of every value that a call returned, which."""
    lifetimes: Mapping[Result, int] = field(default_factory=dict)
    """After how many further calls a result was forgotten."""

    @classmethod
    def of(
        cls,
        graph: Graph,
        calls: Mapping[tuple[object, int], tuple[int, int]],
        positions: Sequence[Position],
        lifetimes: Mapping[Result, int],
    ) -> Executed:
        """Take what the recorder noted: for every value that a call returned, which call; and how long results live."""
        found, later = [0] * len(graph), len(positions) + 1
        for index in range(len(graph) - 1, -1, -1):
            own = [
                calls[graph.nodes[index], nr][0]
                for nr in range(graph.results(index))
                if (graph.nodes[index], nr) in calls
            ]
            # What one call makes on the way to its result was made by that call.
            later = min([later, *own])
            found[index] = later
        results = {(graph.place[node], nr): call for (node, nr), call in calls.items() if node in graph.place}
        # What no call returned, as a `torch.autograd.Function` at the end of the pass, comes after all calls.
        return cls(found, [*positions, ()], results, lifetimes)

    def position(self, index: int) -> Position:
        """The place in the code that made an operation."""
        return self.positions[self.calls[index] - 1]

    def turns(self, firsts: Mapping[int, int], count: int) -> Turns | None:
        """The steps by which calls were made; None where the code does not tell.

        Args:
            firsts: by step, the first operation that reads its input beside something older.
            count: how many steps there are at most.
        """
        known = sorted((t, self.calls[index]) for t, index in firsts.items())
        begins = self._begins(known, count)
        return None if begins is None else Turns(self, begins)

    def _begins(self, known: Sequence[tuple[int, int]], count: int) -> list[int] | None:
        """The call with which each of the steps 1 .. begins: right after the last call that stands later in the code.

        The turn goes on from there to the operation that is known of the step, however often it comes past other places
        before and after that.
        """
        anchors = self._anchors(known, count)
        if anchors is None:
            return None
        begins = [self._begun(call, before) for before, call in pairwise([0, *anchors])]
        # The first turn has all before it to go back through; it begins no earlier in the code than the others.
        foremost = min(self.positions[call - 1] for call in begins[1:])
        first = range(begins[0], anchors[0] + 1)
        return [next((call for call in first if self.positions[call - 1] >= foremost), anchors[0]), *begins[1:]]

    def _begun(self, anchor: int, after: int) -> int:
        """The first of the calls after another one from which the code only goes forwards to an anchor."""
        call = anchor
        while call - 1 > after and self.positions[call - 2] < self.positions[anchor - 1]:
            call -= 1
        return call

    def _anchors(self, known: Sequence[tuple[int, int]], count: int) -> list[int] | None:
        """A call of each of the steps 1 .., those included of which no operation is known."""
        if len(known) < 2 or any(t == after or call >= until for (t, call), (after, until) in pairwise(known)):
            return None
        (first, begun), (_, last) = known[0], known[-1]
        each = min(len(self._like(until, call, until)) // (after - t) for (t, call), (after, until) in pairwise(known))
        if not each:
            return None
        # A loop over layers inside the step comes past the same place several times.
        earlier = self._like(begun, 0, begun - 1)[::-1][each - 1 :: each][: first - 1][::-1]
        found = [*([*earlier, begun][:1] * (first - 1 - len(earlier))), *earlier, begun]
        for (t, call), (after, until) in pairwise(known):
            found += self._like(until, call, until)[::-each][: after - t][::-1]
        # Steps after the last whose operations are known read no older state, and come past the same place.
        return [*found, *self._like(last, last, len(self.positions))[each - 1 :: each][: max(0, count - len(found))]]

    def _like(self, call: int, after: int, until: int) -> list[int]:
        """Calls from the same place in the code as one, after one and until another."""
        return [one for one in range(after + 1, until + 1) if self.positions[one - 1] == self.positions[call - 1]]


@dataclass(frozen=True)
class Turns:
    """The steps of a loop, told by the calls with which they begin."""

    code: Executed
    begins: Sequence[int]
    """The first call of the steps 1 .. ."""

    @cached_property
    def runs_again(self) -> bool:
        """Whether the last step comes past a place of the steps before it more often than any of them: other loops."""
        counts = Counter((self.step(call), position) for call, position in enumerate(self.code.positions, 1))
        last, most = len(self.begins), Counter[Position]()
        for (step, position), count in counts.items():
            if 0 < step < last:
                most[position] = max(most[position], count)
        return any(counts[last, position] > count for position, count in most.items())

    def step(self, call: int) -> int:
        """The step that a call was made by, 0 before the first."""
        return bisect_right(self.begins, call)

    @cached_property
    def _ranks(self) -> tuple[list[int], dict[tuple[int, Position, int], int]]:
        """For every call, how many of its step came from the same place before; and the call, by all three."""
        counts: Counter[tuple[int, Position]] = Counter()
        ranks, found = [], {}
        for call, position in enumerate(self.code.positions, 1):
            step = self.step(call)
            ranks.append(counts[step, position])
            found[step, position, counts[step, position]] = call
            counts[step, position] += 1
        return ranks, found

    @cached_property
    def _values(self) -> dict[Result, Value]:
        return {result: value for value, result in self.code.results.items()}

    def place(self, value: Value, t: int) -> Place | None:
        """Where a value that is there after step t was made; None where no call of a step returned it."""
        call, nr = self.code.results.get(value, (0, 0))
        step = self.step(call)
        return (t - step, self.code.positions[call - 1], self._ranks[0][call - 1], nr) if step else None

    def result(self, place: Place, t: int) -> Result | None:
        """What was returned at a place of the code, as it is there after step t; None where nothing was."""
        age, position, rank, nr = place
        call = self._ranks[1].get((t - age, position, rank))
        return None if call is None or t <= age else (call, nr)

    def is_newest(self, place: Place, t: int) -> bool:
        """Whether nothing that counts was returned at a place of the code since, up to step t."""
        age, position, rank, nr = place
        calls = self._returns.get((position, rank), ())
        return not any(t - age < self.step(call) <= t and self.value((call, nr)) is not None for call in calls)

    def kept(self, sites: Iterable[Site]) -> list[Result]:
        """What a part of the state was in turn, where it is made at one of several places or stays as it was.

        Code may make a new value at every step and take it at some alone: what nothing was made of, and what was
        forgotten within its step, was never part of the state.
        """
        found: list[Result] = []
        for position, rank, nr in sites:
            made = [(call, nr) for call in self._returns.get((position, rank), ())]
            unread = [result for result in made if self.value(result) is None]
            last = next((result for result in reversed(made) if self.value(result) is not None), (0, 0))
            lives = {result: self.code.lifetimes.get(result, 0) for result in unread}
            gone = [lives[result] for result in unread if result < last and not self._outlives(result)]
            dropped = [result for result in unread if gone and lives[result] <= max(gone)]
            found += [result for result in made if result not in dropped]
        return sorted(found)

    def values(self, site: Site) -> dict[Value, int]:
        """What was returned at a place in the code and is part of the graph, and at which step."""
        position, rank, nr = site
        made = {self.value((call, nr)): self.step(call) for call in self._returns.get((position, rank), ())}
        return {value: step for value, step in made.items() if value is not None}

    def newest(self, results: Sequence[Result], t: int) -> Result | None:
        """The last of several results, in the order of their calls, that was made at step t or before."""
        end = self.begins[t] if t < len(self.begins) else len(self.code.positions) + 1
        before = bisect_left(results, (end, 0))
        return results[before - 1] if before else None

    def _outlives(self, result: Result) -> bool:
        """Whether a result is still there when its step is over."""
        call, step = result[0], self.step(result[0])
        return step < len(self.begins) and call + self.code.lifetimes.get(result, 0) >= self.begins[step]

    @cached_property
    def end(self) -> int:
        """The last call of the last step: the last from a place that an earlier step came past."""
        earlier = set(self.code.positions[self.begins[0] - 1 : self.begins[-1] - 1])
        own = range(self.begins[-1], len(self.code.positions) + 1)
        return max((call for call in own if self.code.positions[call - 1] in earlier), default=self.begins[-1])

    @cached_property
    def _returns(self) -> dict[tuple[Position, int], list[int]]:
        """The calls of steps that came from a place of the code as one of so many."""
        found: dict[tuple[Position, int], list[int]] = {}
        for (step, position, rank), call in self._ranks[1].items():
            if step:
                found.setdefault((position, rank), []).append(call)
        return found

    def value(self, result: Result) -> Value | None:
        """What a call returned; None where it is not part of the graph."""
        return self._values.get(result)

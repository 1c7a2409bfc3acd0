"""At which step of a loop every operation was executed, told by the places in the code that the calls came from.

The newest input that a value has read says when it could be made at the earliest. A mask, a reset or `W h` reads the
old state alone and is made by the step after; that shows only in the order in which the code ran. Inside one turn of a
loop the places of its calls go forwards; the turn begins at the foremost of them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from gradscope.forward.graph import Graph

Position = tuple[int, ...]
"""The instruction that a call came from, in the frame of every function on the way to it, outermost first."""


@dataclass(frozen=True)
class Executed:
    """A pass by the order of its calls."""

    calls: Sequence[int]
    """For every operation of the graph, the call that made it."""
    positions: Sequence[Position]
    """For every call, where it came from; the first call is number 1."""

    @classmethod
    def of(
        cls, graph: Graph, calls: Mapping[tuple[object, int], tuple[int, int]], positions: Sequence[Position]
    ) -> Executed:
        """Take what the recorder noted: for every value that a call returned, which call."""
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
        return cls(found, positions)

    def position(self, index: int) -> Position:
        """The place in the code that made an operation."""
        call = self.calls[index]
        return self.positions[call - 1] if call <= len(self.positions) else ()

    def steps(self, firsts: Mapping[int, int], reads: Mapping[int, Sequence[int]]) -> list[int] | None:
        """The step by which every operation was executed, 0 before the first; None where the code does not tell.

        Args:
            firsts: by step, the first operation that reads its input beside something older.
            reads: by step, all operations that read its input.
        """
        known = sorted((t, self.calls[index]) for t, index in firsts.items())
        begins = self._begins(known, {t: [self.calls[index] for index in own] for t, own in reads.items()})
        if begins is None:
            return None
        return [bisect_right(begins, call) for call in self.calls]

    def _begins(self, known: Sequence[tuple[int, int]], reads: Mapping[int, Sequence[int]]) -> list[int] | None:
        """The call with which each of the steps 1 .. begins."""
        found: list[int] = []
        inner = 1
        for (t, call), (after, until) in pairwise(known):
            if after <= t or until <= call:
                return None
            # A loop inside a step comes back to the foremost place too: before its input is read, or while it is.
            last = max((one for one in reads.get(t, ()) if one < until), default=call)
            window = range(max(call, last) + 1, until + 1)
            foremost = min(self.positions[one - 1] for one in window)
            turns = [one for one in window if self.positions[one - 1] == foremost]
            if len(turns) < after - t:
                return None
            if after == t + 1:
                found.append(turns[0])
                inner = len(turns)
            else:
                found += turns[t - after :]
        if not found:
            return None
        return self._completed(known, found, inner)

    def _completed(self, known: Sequence[tuple[int, int]], found: list[int], inner: int) -> list[int]:
        """The same with the steps before and after those whose operations are known; one without a turn is empty.

        `inner` is how often a step comes to the place where it begins, before it reads its input.
        """
        (first, until), (_, last) = known[0], known[-1]
        like = self.positions[found[0] - 1]
        same = [one for one in range(1, until + 1) if self.positions[one - 1] == like][-first * inner :: inner]
        if not same:
            # The first step begins in another way than those after it, but at no place before theirs.
            same = [next((one for one in range(1, until + 1) if self.positions[one - 1] >= like), until)]
        # Steps after the last whose operations are known read no older state, and begin where the others do.
        more = [one for one in range(last + 1, len(self.positions) + 1) if self.positions[one - 1] == like][::inner]
        return [*same[:1] * (first - len(same)), *same, *found, *more]

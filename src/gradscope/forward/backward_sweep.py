"""Backpropagation through a recorded pass: what every state, input and step's weights receive, in log scale."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from gradscope.forward.autograd_graph import Graph, Value
from gradscope.forward.scaled_pull import Discarded, Pending, Pull, Term, pull_scaled, summed
from gradscope.forward.step_labels import StepLabels
from gradscope.forward.walk import Walk
from gradscope.forward.weight_contributions import Axis, Shares, Totals, at_leaves, hypot, log10_rows

NEVER = 2**62


@dataclass(eq=False)
class Swept:
    """What one walk receives; all log10 of norms, by sequence."""

    state: Tensor
    """dL/ds_t for t = 0 .. T, (T + 1, sequences)."""
    weight: Tensor | None
    """Norm of each step's contribution to dL/dW, t = 1 .. T, (T, sequences); None where it was not asked for."""
    ends: dict[int, list[Term]] = field(default_factory=dict)
    """dL/ds_t itself at the steps that were asked for, flat."""
    values: dict[Value, list[Term]] = field(default_factory=dict)
    """What every value of a state receives, where it was asked for."""
    total: Pending | None = None
    """dL/dW of the parameters that its steps read, by whatever way; None where it was not asked for."""
    input: Tensor | None = None
    """Norm of the gradient of what each step reads of the layers below, t = 1 .. T; None where it reads x itself."""


class Sweeper:
    """Knows the order in which a pass with its walks is to be gone back through."""

    def __init__(
        self, graph: Graph, labels: StepLabels, walks: Sequence[Walk], rows: int = 1, axis: Axis = lambda value: None
    ) -> None:
        """Sort the operations: what comes after a state before what leads to it, for every state of every walk.

        Args:
            graph: of the pass.
            labels: of its values.
            walks: its recurrences.
            rows: sequences that go through it side by side.
            axis: which axis of a value they lie along; None for all others.
        """
        self.graph, self.labels, self.rows, self.axis = graph, labels, rows, axis
        self.walks = [walk for walk in walks if walk.steps]
        self.stages = [_stages(graph, walk) for walk in self.walks]
        self.order = sorted(
            range(len(graph)), key=lambda index: (*(stage[index] for stage in self.stages), index), reverse=True
        )

    @cached_property
    def owners(self) -> dict[int, tuple[int, int]]:
        """Which walk's which step an operation belongs to, with what the step makes of its own input."""
        found: dict[int, tuple[int, int]] = {}
        for place, walk in enumerate(self.walks):
            for step in walk.steps:
                known = {value[0] for value in step.before if value is not None}
                stack = [*step.nodes, *(value[0] for value in step.after if value is not None)]
                while stack:
                    index = stack.pop()
                    if index in found or index in known:
                        continue
                    found[index] = (place, step.t)
                    for read in self.graph.reads[index]:
                        mark = self.labels.of(read)
                        if read is not None and mark is not None and (mark.pure or mark.label == 0):
                            stack.append(read[0])
        return found

    @cached_property
    def first(self) -> frozenset[Value]:
        """Parts of the states that the walks begin with, and their copies."""
        states = {value for walk in self.walks for value in walk.steps[0].before if value is not None}
        return frozenset(states | {other for walk in self.walks for others in walk.ties.values() for other in others})

    @cached_property
    def inside(self) -> frozenset[int]:
        """Operations of steps: of a first state that rests, even later ones may read nothing but weights beside it."""
        return frozenset(index for walk in self.walks for index in walk.nodes)

    def is_weight(self, read: Value) -> bool:
        """Whether a value is made of parameters alone, and no state."""
        return self.labels.of(read) is None and read not in self.first and read[0] not in self.inside

    @cached_property
    def shared(self) -> frozenset[Value]:
        """Values of parameters that steps read, read elsewhere too: to make the first state, in a tied head."""
        of_steps: set[Value] = set()
        elsewhere: set[Value] = set()
        for index, reads in enumerate(self.graph.reads):
            weights = {read for read in reads if read is not None and self.is_weight(read)}
            if weights and index in self.owners:
                of_steps |= weights
            else:
                elsewhere |= weights
        own = self._leaves(of_steps)
        return frozenset(read for read in elsewhere if self._leaves({read}) & own)

    def _leaves(self, values: Iterable[Value]) -> set[int]:
        above = {index for value in values for index in self.graph.above(value[0])}
        return {index for index in above if self.graph.is_leaf[index]}

    @cached_property
    def picked(self) -> dict[int, list[tuple[int, int]]]:
        """Of operations that take a step out of what another layer made, which walks read it at which step."""
        found: dict[int, list[tuple[int, int]]] = {}
        for index, (place, t) in self.owners.items() if len(self.walks) > 1 else ():
            for read in (*self.graph.reads[index], (index, 0)):
                if read is None or not self._is_picked(read[0]):
                    continue
                if (place, t) not in found.setdefault(read[0], []):
                    found[read[0]].append((place, t))
        return {index: uses for index, uses in found.items() if len(uses) == 1}

    @cached_property
    def fed(self) -> frozenset[int]:
        """Walks that read what other layers made."""
        return frozenset(place for uses in self.picked.values() for place, _ in uses)

    def _is_picked(self, index: int) -> bool:
        """Whether an operation takes one step out of a whole that a layer made."""
        mark = self.labels.marks[index]
        wholes = [self.labels.of(read) for read in self.graph.reads[index]]
        return (
            mark is not None
            and mark.pure
            and mark.level > 0
            and any(whole is not None and whole.label is None for whole in wholes)
        )

    def sweep(
        self,
        seeds: Mapping[Value, list[Term]],
        leaf: int | None,
        *,
        weights: Pending | None,
        ends: bool = False,
        every: bool = False,
    ) -> tuple[list[Swept], list[Term]]:
        """One backward pass.

        Args:
            seeds: gradients of what the module returned.
            leaf: the operation that stands for the input.
            weights: what parameters receive is added here; None to leave them out.
            ends: whether to keep the gradients of the first full state and of the last two of every walk.
            every: whether to keep what every value of every state receives.

        Returns:
            What every walk receives, and dL/dx.
        """
        run = _Run(self, weights is not None, ends, every)
        pending = pull_scaled(self.graph, self.order, seeds, run.visit, run.deposit, pulled=run.pulled)
        run.finish(Pull(pending, run.deposit, True, run.pulled))
        if weights is not None:
            run.add_totals(weights)
        return run.result(), [] if leaf is None else pending.take((leaf, 0))


class _Run:
    """One pass under way."""

    def __init__(self, sweeper: Sweeper, weights: bool, ends: bool, every: bool = False) -> None:
        self.sweeper, self.graph, self.weights, self.ends, self.every = sweeper, sweeper.graph, weights, ends, every
        self.next = [len(walk.steps) for walk in sweeper.walks]
        self.state = [[torch.empty(0)] * (len(walk.steps) + 1) for walk in sweeper.walks]
        none = torch.full((sweeper.rows,), -math.inf, dtype=torch.float64)
        self.weight = [[none] * len(walk.steps) for walk in sweeper.walks]
        self.kept: list[dict[int, list[Term]]] = [{} for _ in sweeper.walks]
        self.parts: dict[tuple[int, int], Shares] = {}
        self.totals = [Totals(self.graph) for _ in sweeper.walks]
        self.total: list[Pending | None] = [None] * len(sweeper.walks)
        self.values: list[dict[Value, list[Term]]] = [{} for _ in sweeper.walks]
        self.inputs: list[list[list[Tensor]]] = [[[] for _ in walk.steps] for walk in sweeper.walks]
        self.owners = sweeper.owners if weights else {}
        self.shared = sweeper.shared if weights else frozenset()
        self.elsewhere, self.nowhere = Pending(self.graph), Discarded(self.graph)

    def result(self) -> list[Swept]:
        """What every walk received."""
        found = zip(self.state, self.weight, self.kept, self.values, self.total, self.inputs, strict=True)
        rows = self.sweeper.rows
        return [
            Swept(
                torch.stack(state),
                torch.stack(weight) if self.weights else None,
                kept,
                values,
                total,
                torch.stack([hypot(parts, rows) for parts in inputs]) if place in self.sweeper.fed else None,
            )
            for place, (state, weight, kept, values, total, inputs) in enumerate(found)
        ]

    def add_totals(self, weights: Pending) -> None:
        """dL/dW of every walk, and the sum of them."""
        elsewhere, known = at_leaves(self.graph, self.elsewhere), set[Value]()
        for place, totals in enumerate(self.totals):
            own = self.total[place] = Pending(self.graph)
            totals.add_to(own)
            _add(own.terms, own.terms, weights)
            known |= own.terms.keys()
            _add(own.terms.keys(), elsewhere, own)
        _add(known, elsewhere, weights)

    def visit(self, index: int, pull: Pull) -> None:
        """Look at the states that everything after has been gone back through, and at what layers read."""
        for place, stage in enumerate(self.sweeper.stages):
            while self.next[place] >= 0 and stage[index] <= self.next[place]:
                self._arrive(place, self.next[place], pull)
        for place, t in self.sweeper.picked.get(index, ()):
            for nr in range(self.graph.results(index)):
                axis = self.sweeper.axis((index, nr))
                for m, e in pull.pending.look((index, nr)):
                    self.inputs[place][t - 1].append(log10_rows(m, e, axis, self.sweeper.rows))

    def finish(self, pull: Pull) -> None:
        """States that no operation leads to."""
        for place in range(len(self.next)):
            while self.next[place] >= 0:
                self._arrive(place, self.next[place], pull)
            self._close(place, 1)

    def _arrive(self, place: int, t: int, pull: Pull) -> None:
        """State t is reached; what the step after it shares with steps before brings its part first."""
        walk, stage = self.sweeper.walks[place], self.sweeper.stages[place]
        for shared in reversed(walk.steps[t].nodes if t < len(walk.steps) else ()):
            if stage[shared] <= t:
                pull.through(shared)
        self._look(place, t, pull.pending)
        self.next[place] -= 1

    def _look(self, place: int, t: int, pending: Pending) -> None:
        walk = self.sweeper.walks[place]
        values = [value for value in dict.fromkeys(walk.states[t]) if value is not None]
        arrived = [self._arrived(walk, t, value, pending) for value in values]
        parts = [
            log10_rows(m, e, self.sweeper.axis(value), self.sweeper.rows)
            for value, terms in zip(values, arrived, strict=True)
            for m, e in terms
        ]
        self.state[place][t] = hypot(parts, self.sweeper.rows)
        if self.ends and t in (walk.begins, len(walk.steps) - 1, len(walk.steps)):
            self.kept[place][t] = [self._flat(value, terms) for value, terms in zip(values, arrived, strict=True)]
        if self.every:
            self.values[place] |= dict(zip(values, [list(terms) for terms in arrived], strict=True))
        self._close(place, t + 1)

    def _arrived(self, walk: Walk, t: int, value: Value, pending: Pending) -> list[Term]:
        """What a part of a state receives."""
        tied = walk.ties.get(value, ()) if t == 0 else ()
        if not tied:
            return pending.look(value)
        both = Pending(self.graph)
        for one in (value, *tied):
            for m, e in pending.look(one):
                both.add(value, m, e)
        return both.look(value)

    def _flat(self, value: Value, terms: Sequence[Term]) -> Term:
        if not terms:
            return torch.zeros(self.graph.shape(value).numel(), dtype=torch.float64), -(2**40)
        m, e = summed(terms)
        return m.reshape(-1), e

    def deposit(self, index: int, place: int, read: Value) -> Pending | None:
        """What an operation gives to a parameter goes no further: it is noted by step."""
        return self.nowhere if self.sweeper.is_weight(read) else None

    def pulled(self, index: int, gradients: Sequence[Tensor | None], e: int, found: Sequence[Tensor | None]) -> None:
        """An operation was gone through; note what it gave to parameters."""
        owner = self.owners.get(index)
        for place, (read, m) in enumerate(zip(self.graph.reads[index], found, strict=False)):
            if read is None or (owner is None and read not in self.shared):
                continue
            if owner is None:
                m = self.graph.apply(index, gradients)[place] if m is None else m
                if m is not None:
                    self.elsewhere.add(read, m, e)
            elif (m is not None or index in self.graph.products) and self.sweeper.is_weight(read):
                shares = self.parts.get(owner)
                if shares is None:
                    shares = self.parts[owner] = Shares(
                        self.graph, self.sweeper.axis, self.sweeper.rows, self.totals[owner[0]]
                    )
                shares.add(index, place, gradients, m, e)

    def _close(self, place: int, t: int) -> None:
        """All that step t gives to its weights has arrived."""
        part = self.parts.pop((place, t), None)
        if part is not None:
            self.weight[place][t - 1] = part.log10()


def _add(values: Iterable[Value], terms: Mapping[Value, Sequence[Term]], to: Pending) -> None:
    """Add the terms of some values."""
    for value in list(values):
        for m, e in terms.get(value, ()):
            to.add(value, m, e)


def _stages(graph: Graph, walk: Walk) -> list[int]:
    """For every operation, the first state that it leads to."""
    found = [NEVER] * len(graph)
    for t, state in enumerate(walk.states):
        stack = [value[0] for value in state if value is not None]
        stack += [] if t else [other[0] for others in walk.ties.values() for other in others]
        while stack:
            index = stack.pop()
            if found[index] <= t:
                continue
            found[index] = t
            stack += [read[0] for read in graph.reads[index] if read is not None]
    return found

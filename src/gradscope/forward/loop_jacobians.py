"""A recurrence that was found as a chain of Jacobians by autograd's own formulas, and as a layer with names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import torch
from torch import Tensor
from torch.nn import Parameter

from gradscope.forward.autograd_graph import WRITES, Graph, Value
from gradscope.forward.scaled_pull import pull_plain
from gradscope.forward.walk import State, States, Step, Walk
from gradscope.forward.weight_contributions import by_row

KEPT = 2**25
"""Numbers of Jacobians that are kept."""
MASKS = WRITES | frozenset(
    f"{name}Backward{nr}" for name in ("Mul", "Where", "MaskedFill", "Lerp", "Zero", "Fill") for nr in range(2)
)
"""Operations whose slope tells whether what they read is multiplied by exactly zero, whatever it is."""


class WrittenChain(ABC):
    """Jacobians of one sequence that are there as matrices."""

    batch = 1

    @abstractmethod
    def jacobian(self, t: int) -> Tensor:
        """J_t, (size, size), t = 1 for the step after the first full state."""

    def matmat(self, t: int, q: Tensor) -> Tensor:
        """J_t Q."""
        return self.jacobian(t) @ q

    def rmatmat(self, t: int, q: Tensor) -> Tensor:
        """J_t^T Q."""
        return self.jacobian(t).mT @ q

    def dense(self, start: int, stop: int) -> Tensor:
        """J_{start+1} .. J_stop, (1, stop - start, size, size)."""
        return torch.stack([self.jacobian(t) for t in range(start + 1, stop + 1)])[None]


class LoopChain(WrittenChain):
    """J_t of one sequence, from the first full state on; a later one that is narrower is filled with zeros."""

    def __init__(self, graph: Graph, walk: Walk, like: Tensor) -> None:
        """Take the walk.

        Args:
            graph: the pass.
            walk: one recurrence in it.
            like: on the device of the pass, and of its type where no state has one.
        """
        # A module may compute its outputs in another type than its states: a head in float32, a scan in float64.
        types = [graph.form(value)[1] for state in walk.states for value in state if value is not None]
        # Half-precision ones are held in float32, in which linear algebra exists.
        kind = reduce(torch.promote_types, types or [like.dtype], torch.float32)
        self.graph, self.walk, self.like = graph, walk, like.detach().new_empty(0, dtype=kind)
        self.begins = walk.begins
        self.length = len(walk.steps) - self.begins
        self.sizes = [self._numbers(state) for state in walk.states]
        self.size = max(self.sizes)
        self._kept: dict[int, Tensor] = {}

    def _numbers(self, state: State) -> int:
        return sum(self.graph.shape(value).numel() for value in state if value is not None)

    def forget(self) -> None:
        """Drop the Jacobians that are kept."""
        self._kept.clear()

    def jacobian(self, t: int) -> Tensor:
        """J_t, (size, size), t = 1 for the step after the first full state."""
        if t not in self._kept:
            if len(self._kept) * self.size**2 > KEPT:
                self._kept.clear()
            self._kept[t] = self._computed(self.walk.steps[self.begins + t - 1])
        return self._kept[t]

    def _computed(self, step: Step) -> Tensor:
        found = self.like.new_zeros(self.size, self.size)
        before = [value for value in step.before if value is not None]
        after = [value for value in step.after if value is not None]
        if not before or not after:
            return found
        nodes = self._dependent(step)
        rows = self._numbers(step.after)
        identity = torch.eye(rows, dtype=self.like.dtype, device=self.like.device)

        def row(v: Tensor) -> Tensor:
            return self._pulled(v, after, before, nodes)

        try:
            made = torch.vmap(row)(identity)
        except RuntimeError:
            # Formulas that vmap cannot follow (a function of the user's own) are applied row by row.
            made = torch.stack([row(v) for v in identity])
        rows_at, columns_at = self.places(step.after), self.places(step.before)
        found[rows_at[:, None], columns_at] = made
        return found

    def places(self, state: State) -> Tensor:
        """Where the numbers of a state stand among those of the widest; parts that are not there leave a gap."""
        like = self.walk.states[self.sizes.index(self.size)]
        widths = [self._numbers((value,)) for value in like]
        if len(state) != len(like) or any(v and self._numbers((v,)) != w for v, w in zip(state, widths, strict=True)):
            return torch.arange(self._numbers(state))
        starts = [sum(widths[:place]) for place in range(len(widths))]
        kept = [torch.arange(s, s + w) for s, w, v in zip(starts, widths, state, strict=True) if v is not None]
        return torch.cat(kept)

    def _pulled(self, v: Tensor, after: list[Value], before: list[Value], nodes: tuple[int, ...]) -> Tensor:
        shapes = [self.graph.shape(value) for value in after]
        parts = v.split([shape.numel() for shape in shapes])
        seeds: dict[Value, Tensor] = {}
        tied = [other for value in before for other in self.walk.ties.get(value, ())]
        for value, shape, part in zip(after, shapes, parts, strict=True):
            own = part.reshape(shape).to(self.graph.form(value)[1])
            seeds[value] = own + seeds[value] if value in seeds else own
        with torch.no_grad():
            pulled = pull_plain(self.graph, nodes, seeds, frozenset([*before, *tied]))
        for value in before:
            for other in self.walk.ties.get(value, ()):
                if other in pulled:
                    pulled[value] = pulled[other] + pulled[value] if value in pulled else pulled[other]
        flat = [
            pulled[value].reshape(-1).to(v) if value in pulled else v.new_zeros(self.graph.shape(value).numel())
            for value in before
        ]
        return torch.cat(flat)

    def _dependent(self, step: Step, *, masked: bool = True) -> tuple[int, ...]:
        """The step's operations that depend on the state before, last first; unless `masked` through no mask of 0."""
        reached = {value for value in step.before if value is not None}
        reached |= {other for value in reached for other in self.walk.ties.get(value, ())}
        nodes: set[int] = set()
        for index in step.nodes:
            for place, read in enumerate(self.graph.reads[index]):
                reads_it = read is not None and (read in reached or read[0] in nodes)
                if reads_it and (masked or not self._is_masked(index, place)):
                    nodes.add(index)
        return tuple(sorted(nodes, reverse=True))

    def _is_masked(self, index: int, place: int) -> bool:
        """Whether an operation multiplies what it reads at a place by exactly zero, and no weights have a say in it."""
        if self.graph.names[index] not in MASKS:
            return False
        shape, kind = self.graph.form((index, 0))
        slope = self.graph.apply(index, [torch.ones(shape, dtype=kind, device=self.like.device)])[place]
        if slope is None or bool(slope.any()):
            return False
        factors = self.graph.reads[index] if self.graph.names[index] == "MulBackward0" else ()
        made_of = {at for nr, read in enumerate(factors) if read and nr != place for at in self.graph.above(read[0])}
        return not any(isinstance(getattr(self.graph.nodes[at], "variable", None), Parameter) for at in made_of)

    @cached_property
    def anew(self) -> dict[int, bool]:
        """Steps that take nothing over from the state before; true where that is multiplied by exactly zero."""
        found: dict[int, bool] = {}
        for step in self.walk.steps[self.begins :]:
            nodes = self._dependent(step) if step.before else ()
            if step.before and not nodes:
                found[step.t] = False
            elif nodes and step.t > 1 and step.after and None not in step.after:
                kept = {*self._dependent(step, masked=False)}
                if not any(value in step.before or value[0] in kept for value in step.after if value):
                    found[step.t] = True
        return found

    @cached_property
    def silent(self) -> tuple[int, ...]:
        """Steps whose Jacobian is exactly zero although the step does read the state before: a detach."""
        return tuple(step.t for step in self.walk.steps[self.begins :] if self._is_stopped(step))

    def _is_stopped(self, step: Step) -> bool:
        nodes = self._dependent(step)
        if step.t in self.anew or not any("StopBackward" in self.graph.names[index] for index in nodes):
            return False
        return not bool(self.jacobian(step.t - self.begins).any())


@dataclass(eq=False)
class LoopLayer:
    """One walk of all sequences of a batch."""

    name: str
    length: int
    look: Callable[[], Sequence[tuple[States, list[str], Sequence[int | None], int]]]
    """Values of the states by pass: (s_0 .. s_T by part, names of the parts, batch axis of each part, sequences)."""
    chains: Callable[[], Sequence[LoopChain]]
    """Its Jacobians, by sequence."""
    begins: int = 0
    """The first step whose state is full; there are Jacobians of the steps after it."""

    sees_input = False

    @cached_property
    def _looked(self) -> Sequence[tuple[States, list[str], Sequence[int | None], int]]:
        return self.look()

    @cached_property
    def values(self) -> Mapping[str, Tensor]:
        """Parts of the state by name, `state.h`, each (T, batch, numbers); NaN where a value is not known."""
        found: dict[str, Tensor] = {}
        for place, name in enumerate(self._looked[0][1]):
            rows = [part for looked in self._looked if (part := self._part(looked, place)) is not None]
            if len(rows) == len(self._looked) and len({row.shape[2] for row in rows}) == 1:
                found[f"state.{name}"] = torch.cat(rows, 1)[1:]
        return found

    def _part(self, looked: tuple[States, list[str], Sequence[int | None], int], place: int) -> Tensor | None:
        """(T + 1, sequences, numbers) of one part in one pass."""
        states, _, axes, rows = looked
        known = [state[place] if place < len(state) else None for state in states]
        # What all sequences share, a first state of zeros for one, is the same in each.
        shown = [None if value is None else by_row(value, axes[place], rows).expand(rows, -1) for value in known]
        like = next((value for value in shown[1:] if value is not None), None)
        if like is None:
            return None
        blank = torch.full_like(like, torch.nan)
        return torch.stack([blank if value is None or value.shape != like.shape else value for value in shown])

    @cached_property
    def states(self) -> Tensor:
        """s_0 .. s_T, (T + 1, batch, numbers); NaN where a value is not known."""
        passes = []
        for looked in self._looked:
            parts = [part for place in range(len(looked[1])) if (part := self._part(looked, place)) is not None]
            passes.append(torch.cat(parts, -1) if parts else torch.full((self.length + 1, looked[3], 1), torch.nan))
        return torch.cat(passes, 1)

    @property
    def outputs(self) -> Tensor:
        """s_1 .. s_T."""
        return self.states[1:]

    def apply(self, at: int, q: Tensor) -> Tensor:
        """J_t Q."""
        return torch.stack([chain.jacobian(at + 1 - self.begins) for chain in self.chains()]) @ q

    def apply_transposed(self, at: int, q: Tensor) -> Tensor:
        """J_t^T Q."""
        return torch.stack([chain.jacobian(at + 1 - self.begins).mT for chain in self.chains()]) @ q

    def jacobians(self, at: slice) -> Tensor:
        """J_t, (batch, n, size, size)."""
        start, stop = at.start - self.begins, at.stop - self.begins
        return torch.cat([chain.dense(start, stop) for chain in self.chains()])

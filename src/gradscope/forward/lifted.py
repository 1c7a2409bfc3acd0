"""A walk as a chain of Jacobians: autograd's own formulas between one state and the next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property, reduce

import torch
from torch import Tensor
from torch.nn import Parameter

from gradscope.forward.graph import Graph, Value
from gradscope.forward.pull import pull_plain
from gradscope.forward.walk import State, Step, Walk

KEPT = 2**25
"""Numbers of Jacobians that are kept."""
MASKS = frozenset(
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


class LiftedChain(WrittenChain):
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

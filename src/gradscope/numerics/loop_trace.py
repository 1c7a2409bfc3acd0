"""A user's module whose recurrence was found in the computation: every sequence opened by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from gradscope.chain import JacobianChain
from gradscope.errors import UsageError
from gradscope.forward.autograd_graph import Graph, Value, operation
from gradscope.forward.joined_chain import JoinedChain, NotJoined, joint_gradients, walk_gradients
from gradscope.forward.loop_jacobians import LoopChain, LoopLayer
from gradscope.forward.scaled_pull import Pending, Term, pull_plain
from gradscope.forward.traced_pass import TracedPass, walk_names
from gradscope.forward.walk import State, States, Walk, state_values
from gradscope.forward.weight_contributions import hypot, log10_rows
from gradscope.models.cell import Layer
from gradscope.models.fused_recurrence import OpenedPass
from gradscope.models.stack import Recurrent
from gradscope.models.whole_module import WholeModule
from gradscope.numerics.adjoint import Adjoint, LayerAdjoint
from gradscope.numerics.logscale import log10_norm
from gradscope.numerics.loop_equality import loop_against_torch
from gradscope.numerics.module_trace import Cotangents, ModuleTrace
from gradscope.numerics.sequence_passes import Back, SequencePass, SequencePasses, backward, seeds_of
from gradscope.numerics.trace import Unavailable
from gradscope.records import EqualityCheck, ModelKind
from gradscope.registry import unknown
from gradscope.text import safe_text

OTHER_WAYS = "the sequences of the batch go through different recurrences"
MOST_PARTS = 3
"""Parts of a state of one size that are written out one by one."""


class LoopTrace(ModuleTrace):
    """Autograd's own formulas, in log scale, along the graph of each sequence."""

    def __init__(self, model: WholeModule, x: Tensor, first: TracedPass) -> None:
        """Take the model, its input and its first sequence, opened."""
        super().__init__(model, x)
        self.first = first
        self.sequence_passes = SequencePasses(model, x, first)
        self._backs: list[tuple[Cotangents, Back]] = []

    @property
    def seen(self) -> OpenedPass:
        """What the module returns, as numbers: its graph is kept by sequence pass."""
        return self.sequence_passes.seen

    def opening(self, b: int) -> TracedPass:
        """One sequence by itself.

        Raises:
            Unavailable: it gives something else by itself than among the others.
        """
        return self.sequence_passes.opening(b)

    @property
    def types(self) -> frozenset[torch.dtype]:
        """Number types that took part in the pass of the first sequence."""
        return self.first.types

    @cached_property
    def names(self) -> tuple[str, ...]:
        """What every walk is called."""
        return walk_names(self.first)

    @cached_property
    def joint_place(self) -> int:
        """Which walk's state is the model's.

        Raises:
            Unavailable: none has one that goes along with the input, or several do.
        """
        walks = self.first.walks
        if self.model.key is not None:
            if self.model.key not in self.names:
                raise UsageError(unknown("recurrence", self.model.key, list(self.names)) + " (--key)")
            return self._with_state(self.names.index(self.model.key))
        if len(walks) == 1:
            return self._with_state(0)
        held = f"the module holds several recurrences ({', '.join(self.names)})"
        raise Unavailable(f"{held} without a joint state: {self._stacked[1]}; choose one with --key")

    @cached_property
    def _stacked(self) -> tuple[JoinedChain | None, str]:
        """The recurrences of the first sequence as one, and else why they are none."""
        walks = self.first.walks
        if self.model.key is not None or len(walks) < 2:
            return None, ""
        try:
            for place in range(len(walks)):
                self._with_state(place)
            joined = self._join(self.first)
            joined.couplings  # noqa: B018 - whether they can be told is what is asked
        except (NotJoined, Unavailable) as reason:
            return None, str(reason)
        return joined, ""

    def _join(self, one: TracedPass) -> JoinedChain:
        chains = [self._walk(one, place)[2] for place in range(len(self.first.walks))]
        return JoinedChain(one.graph, chains, self.names)

    @property
    def is_stacked(self) -> bool:
        """Whether several recurrences are one state."""
        return self._stacked[0] is not None

    def steps_read(self, v: Cotangents) -> frozenset[int]:
        """Those of the first sequences that are gone through together."""
        one = next(iter(self.sequence_passes))
        at = {index: step.t for walk in one.walks if not walk.backwards for step in walk.steps for index in step.nodes}
        seeds = {value: terms[0][0] for value, terms in seeds_of(v, one).items()}
        after = [index for index in range(len(one.graph) - 1, -1, -1) if index not in at]
        within = frozenset((index, nr) for index in at for nr in range(one.graph.results(index)))
        with torch.no_grad():
            found = pull_plain(one.graph, after, seeds, within)
        # What the last step left as it was is read of it.
        last = {value: step.t for walk in one.walks for step in walk.steps[-1:] for value in step.after if value}
        return frozenset(last.get(value, at[value[0]]) for value, g in found.items() if bool((g != 0).any()))

    @property
    def unjoined(self) -> str:
        """Why several recurrences are not one state; empty where they are."""
        return self._stacked[1]

    @property
    def remarks(self) -> tuple[str, ...]:
        """How the axes were taken, what the state is, and what is given to its steps or was decided on the way."""
        found = list(super().remarks)
        if self.first.recording.branched:
            found.append("its code looks at numbers on the way: steps are those that were taken on this input")
        if self.is_stacked:
            since = f"; Jacobians begin at step {self.begins}, the first with all of it" if self.begins else ""
            found.append(f"one state of all layers: {', '.join(self.names)}{since}")
        for place in self._walking:
            name, walk = self.names[place], self.first.walks[place]
            if not self.is_stacked and self.has_joint and place == self.joint_place:
                since = f"; Jacobians begin at step {walk.begins}, the first with all of it" if walk.begins else ""
                found.append(f"state found in the computation: {self._parts(place)}{since}")
            if not self.is_stacked and self._reads_wholes(walk):
                found.append(f"what {name} reads of the whole sequence at every step is taken as given")
        return tuple(found)

    def _parts(self, place: int) -> str:
        """`h (64, by tanh)` for every part of the widest state."""
        graph, walk = self.first.graph, self.first.walks[place]
        names = self._first_states[place][1]
        known = [(name, value) for name, value in zip(names, walk.steps[-1].before, strict=False) if value is not None]
        return ", ".join(
            f"{safe_text(name)} ({graph.shape(value).numel()}, by {operation(graph.names[value[0]])})"
            for name, value in known
        )

    @cached_property
    def _first_states(self) -> dict[int, tuple[States, list[str]]]:
        """Values and names of the first sequence's states, by walk."""
        return {place: self.first.states(self.first.walks[place]) for place in self._walking}

    def _reads_wholes(self, walk: Walk) -> bool:
        """Whether its steps read something that is made of all steps at once, and not only a piece of it."""
        graph, labels = self.first.graph, self.first.labels
        step = walk.steps[len(walk.steps) // 2]
        return any(
            read is not None and (mark := labels.of(read)) is not None and mark.label is None
            for index in step.nodes
            for read in graph.reads[index]
        )

    @property
    def has_joint(self) -> bool:
        """Whether there is a state that is the model's."""
        try:
            return self.is_stacked or self.joint_place >= 0
        except Unavailable:
            return False

    def _with_state(self, place: int) -> int:
        walk, name = self.first.walks[place], self.names[place]
        if walk.grows:
            raise Unavailable(
                f"what {name} carries grows with every step ({walk.grows[0]} floats after the first, {walk.grows[-1]} "
                f"after the last): a cache, not a state"
            )
        if walk.rests:
            raise Unavailable(
                f"a part of what {name} carries stays as it is at some steps, and what it is after each cannot be told"
            )
        if walk.backwards:
            raise Unavailable(f"{name} reads the sequence from its end, so it has no state that outputs could wait for")
        if len(walk.steps) != self.length:
            raise Unavailable(f"{name} walks {len(walk.steps)} steps of its own where the input has {self.length}")
        return place

    @property
    def begins(self) -> int:
        """The first step that has a full state."""
        joined = self._stacked[0]
        if joined is not None:
            return joined.begins
        return self.first.walks[self.joint_place].begins if self.has_joint else 0

    @property
    def kind(self) -> ModelKind:
        """A recurrence was found."""
        return "recurrent"

    @cached_property
    def size(self) -> int:
        """Numbers in all states, or in that of the chosen one."""
        chains = dict(zip(self._walking, self.first.chains, strict=True))
        if self.model.key in self.names:
            place = self.names.index(self.model.key or "")
            return chains[place].size if place in chains else 0
        return sum(chain.size for chain in chains.values())

    @cached_property
    def _walking(self) -> tuple[int, ...]:
        """Places of the walks that have a state."""
        return tuple(place for place, walk in enumerate(self.first.walks) if walk.steps)

    @cached_property
    def carried(self) -> int | None:  # type: ignore[override]
        """Numbers of all states; where one grows, as many as it has in the end."""
        return self.size + sum(walk.grows[-1] for walk in self.first.walks if walk.grows)

    @property
    def shape(self) -> str:
        """`state 48+48` for two parts of a state, `state 4x64` for many alike."""
        parts = [
            self.first.graph.shape(value).numel()
            for place in self._walking
            for value in _widest(self.first.graph, self.first.walks[place])
            if value is not None
        ]
        if not parts:
            return "state not told" if any(walk.rests for walk in self.first.walks) else "no fixed state"
        # With fewer parts, "2x48" would be read as two layers.
        alike = len(set(parts)) == 1 and len(parts) > MOST_PARTS
        return "state " + (f"{len(parts)}x{parts[0]}" if alike else "+".join(map(str, parts)))

    @cached_property
    def layers(self) -> tuple[tuple[str, Layer], ...]:
        """Every walk with a state of its own, by name."""
        return tuple((self.names[place], self._named_layer(place)) for place in self._walking)

    def _named_layer(self, place: int) -> LoopLayer:
        walk = self.first.walks[place]

        def look() -> list[tuple[States, list[str], list[int | None], int]]:
            found: list[tuple[States, list[str], list[int | None], int]] = []
            for sequence_pass in self.sequence_passes:
                if found and not self.sequence_passes.is_short:
                    # Of long sequences the first stands for all.
                    break
                x, own = self.model.laid_out(sequence_pass.taken(self.x)), self._same(sequence_pass.walks, place)
                looked = state_values(
                    self.model, x, sequence_pass.recording, sequence_pass.graph, own, sequence_pass.answers
                )
                axes = [None if value is None else sequence_pass.sweeper.axis(value) for value in own.steps[-1].before]
                found.append((*looked, axes, len(sequence_pass.rows)))
            return found

        return LoopLayer(
            self.names[place],
            len(walk.steps),
            look,
            lambda: [self._walk(self.opening(b), place)[2] for b in range(self.sequences)],
            walk.begins,
        )

    def _same(self, walks: Sequence[Walk], place: int) -> Walk:
        """The walk among others that is the first sequence's.

        Raises:
            Unavailable: there is none.
        """
        mine = self.first.walks[place]
        for walk in walks:
            if (walk.level, walk.backwards, len(walk.steps)) == (mine.level, mine.backwards, len(mine.steps)):
                return walk
        raise Unavailable(OTHER_WAYS)

    def _walk(self, one: TracedPass, place: int) -> tuple[TracedPass, Walk, LoopChain]:
        """A sequence's own walk, its chain.

        Raises:
            Unavailable: this sequence takes another way.
        """
        walk = self._same(one.walks, place)
        return one, walk, one.chains[[w for w in one.walks if w.steps].index(walk)]

    @property
    def orders(self) -> tuple[Tensor | None, ...]:
        """Walks in their own order of steps."""
        found = []
        for place in self._walking:
            walk = self.first.walks[place]
            steps = len(walk.steps)
            back = torch.arange(steps - 1, -1, -1)[:, None].expand(steps, self.sequences)
            found.append(back if walk.backwards else None)
        return tuple(found)

    def back(self, v: Cotangents, *, weights: bool) -> Back:
        """The backward pass; asked again for the same cotangents, the same one."""
        for known, back in self._backs:
            if known is v and (back.weights is not None or not weights):
                return back
        found = backward(self.sequence_passes, v, weights=weights)
        self._backs = [*self._backs[-1:], (v, found)]
        return found

    def adjoint(self, v: Cotangents, *, totals: bool = True) -> Adjoint:
        """The backward pass through the joint recurrence."""
        back = self.back(v, weights=True)
        if self.is_stacked:
            joint = self._joint_states(v)
            layers = [replace(one, joint=own) for one, own in zip(self.layer_adjoints(v), joint, strict=True)]
            return Adjoint(tuple(layers), back.given)
        place = self._walking.index(self.joint_place)
        layer = replace(self._layer(back, place), input=log10_norm(back.given.m, back.given.e))
        if len(_widest(self.first.graph, self.first.walks[self.joint_place])) > 1:
            layer = replace(layer, joint=self._walk_states(v))
        return Adjoint((layer,), back.given)

    def _walk_states(self, v: Cotangents) -> Tensor:
        """log10 ||dL/ds_t|| of the chosen recurrence, (T + 1, sequences)."""
        found = []
        for sequence_pass in self.sequence_passes:
            walk = self._same(sequence_pass.walks, self.joint_place)
            found.append(
                _norms(walk, sequence_pass, walk_gradients(sequence_pass.graph, walk, seeds_of(v, sequence_pass)))
            )
        return torch.cat(found, 1)

    def _joint_states(self, v: Cotangents) -> list[Tensor]:
        """log10 ||dL/ds_t|| of every layer's state as a coordinate of the joint one, (T + 1, sequences) each."""
        passes = []
        for sequence_pass in self.sequence_passes:
            pending = joint_gradients(
                sequence_pass.graph,
                sequence_pass.walks,
                sequence_pass.sweeper,
                sequence_pass.leaf,
                seeds_of(v, sequence_pass),
            )
            walks = [self._same(sequence_pass.walks, place) for place in range(len(self.first.walks))]
            passes.append([_norms(walk, sequence_pass, [pending] * len(walk.states)) for walk in walks])
        return [torch.cat(parts, 1) for parts in zip(*passes, strict=True)]

    def _layer(self, back: Back, place: int) -> LayerAdjoint:
        own = [swept[place] for swept in back.swept]
        if len({len(one.state) for one in own}) > 1:
            # A sequence whose first steps leave the state alone walks fewer.
            raise Unavailable(OTHER_WAYS)
        state = torch.cat([one.state for one in own], 1)
        weights = [one.weight for one in own if one.weight is not None]
        weight = torch.cat(weights, 1) if weights else None
        inputs = [one.input for one in own if one.input is not None]
        # The layer that reads x itself is told by x, however often it reads it.
        read = torch.cat(inputs, 1) if inputs else log10_norm(back.given.m, back.given.e)
        total = None if back.totals is None else back.totals[place]
        return LayerAdjoint(state, state, read, weight, total, None)

    def layer_adjoints(self, v: Cotangents) -> tuple[LayerAdjoint, ...]:
        """What every walk receives, by its own steps."""
        back = self.back(v, weights=True)
        return tuple(self._layer(back, place) for place in range(len(self._walking)))

    def states_heard(self, v: Cotangents) -> tuple[Tensor, ...]:
        """log10 ||dL/ds_t|| of every walk, (T + 1, batch)."""
        back = self.back(v, weights=False)
        return tuple(self._layer(back, place).state for place in range(len(self._walking)))

    def input_gradient(self, v: Cotangents) -> Tensor:
        """log10 ||dL/dx_t||, (batch, T); with respect to the embeddings of tokens."""
        if self.first.recording.given is None:
            raise Unavailable("no embedding of the module reads its token ids: there is no input to differentiate by")
        given = self.back(v, weights=False).given
        return log10_norm(given.m, given.e).T

    def equality(self, v: Cotangents) -> EqualityCheck | None:
        """Outputs and gradients along the graphs against the module, run and differentiated whole by torch."""
        return loop_against_torch(self.sequence_passes, self.back(v, weights=True), v)

    def recurrence(self, item: int) -> tuple[Recurrent, Tensor]:
        """It is not one of gradscope's own cells.

        Raises:
            Unavailable: always.
        """
        raise Unavailable("the recurrence is the module's own code", told=True)

    def chain(self, item: int) -> JacobianChain:
        """The Jacobians of the joint state in one sequence."""
        if self.is_stacked:
            return self._join(self.opening(item))
        return self._walk(self.opening(item), self.joint_place)[2]

    def ends(self, item: int) -> tuple[Tensor, Tensor, int]:
        """dL/ds_0 and dL/ds_T for L = <v, s_T>, v a seeded unit vector: by the graph, not by the Jacobians.

        The loss reads the last state itself: outputs may read every state, and then the gradient does not come by the
        last alone. Of stacked recurrences it is L = <v, y_T>, and the later state that of T - 1.

        Raises:
            Unavailable: the outputs of stacked recurrences have no steps.
        """
        one = self.opening(item)
        if self.is_stacked:
            return self._ends_of_stack(one, item)
        _, walk, _ = self._walk(one, self.joint_place)
        values = [value for value in dict.fromkeys(walk.states[-1]) if value is not None]
        sizes = [one.graph.shape(value).numel() for value in values]
        drawn = torch.randn(sum(sizes), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        parts = (drawn / drawn.norm()).to(one.x.device).split(sizes)
        forms = map(one.graph.form, values)
        seeds = {v: [(p.reshape(shape).to(kind), 0)] for v, p, (shape, kind) in zip(values, parts, forms, strict=True)}
        found, _ = one.sweeper.sweep(seeds, one.leaf, weights=None, ends=True)
        ends = found[[other for other in one.walks if other.steps].index(walk)].ends
        return _plain(ends[walk.begins]), _plain(ends[len(walk.steps)]), len(walk.steps)

    def _ends_of_stack(self, one: TracedPass, item: int) -> tuple[Tensor, Tensor, int]:
        own = one.recording.outputs[0]
        shape = self.model.shape_of(own, self.x[item : item + 1])
        if not shape.has_steps:
            raise Unavailable("the output has no steps")
        drawn = torch.randn(shape.standard[-1], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        asked = own.new_zeros(shape.standard)
        asked[:, -1] = (drawn / drawn.norm()).to(own)
        value = one.graph.value(own)
        if value is None:
            raise Unavailable("the output has no gradient")
        seeds = {value: [(shape.as_returned(asked), 0)]}
        steps = self.length - 1
        pending = joint_gradients(one.graph, one.walks, one.sweeper, one.leaf, seeds)
        walks = [self._same(one.walks, place) for place in range(len(self.first.walks))]
        first, last = (
            torch.cat([_flat(one.graph, pending, x) for walk in walks for x in walk.states[t] if x])
            for t in (self.begins, steps)
        )
        return first, last, steps

    def cut_steps(self, item: int) -> tuple[int, ...]:
        """Steps at which a detach stops the gradient."""
        if self.is_stacked:
            return self._join(self.opening(item)).silent
        return self._walk(self.opening(item), self.joint_place)[2].silent

    def anew_steps(self, item: int) -> dict[int, bool]:
        """Steps that take nothing over from the old state; true where one multiplies it by exactly zero."""
        one = self.opening(item)
        places = range(len(self.first.walks)) if self.is_stacked else (self.joint_place,)
        found = [self._walk(one, place)[2].anew for place in places]
        return {t: any(own[t] for own in found) for t in sorted(set.intersection(*map(set, found)))}


def _widest(graph: Graph, walk: Walk) -> State:
    """The newest state with most numbers: the last one is what the outputs read, which may be a part of it."""
    return max(
        reversed(walk.states), key=lambda state: sum(graph.shape(value).numel() for value in state if value is not None)
    )


def _norms(walk: Walk, sequence_pass: SequencePass, arrived: Sequence[Pending]) -> Tensor:
    """log10 of the norm of what arrived at every state of a walk, (T + 1, sequences)."""
    rows, axis = len(sequence_pass.rows), sequence_pass.sweeper.axis

    def norm(state: State, pending: Pending) -> Tensor:
        known = [value for value in dict.fromkeys(state) if value is not None]
        tied = [(value, (value, *(walk.ties.get(value, ()) if state is walk.states[0] else ()))) for value in known]
        parts = [
            log10_rows(m, e, axis(value), rows) for value, all_of in tied for m, e in _together(pending, value, all_of)
        ]
        return hypot(parts, rows)

    return torch.stack([norm(state, pending) for state, pending in zip(walk.states, arrived, strict=True)])


def _together(pending: Pending, value: Value, copies: Sequence[Value]) -> list[Term]:
    """What arrived at a value and at its copies, which are one."""
    if len(copies) == 1:
        return pending.look(value)
    both = Pending(pending.graph)
    for copy in copies:
        for m, e in pending.look(copy):
            both.add(value, m, e)
    return both.look(value)


def _flat(graph: Graph, pending: Pending, value: Value) -> Tensor:
    """What arrived at a value, in the range of its type."""
    terms = pending.look(value)
    if not terms:
        return torch.zeros(graph.shape(value).numel(), dtype=torch.float64)
    return sum((m.detach().double().reshape(-1) * 2.0 ** max(e, -1074) for m, e in terms), torch.zeros(()).double())


def _plain(parts: Sequence[Term]) -> Tensor:
    return torch.cat([m.detach() * 2.0 ** max(e, -1074) for m, e in parts]) if parts else torch.zeros(0)

"""Recurrences that run one after the other over the whole sequence, as one: s_t holds the states of all layers.

A layer's step t reads what the layers below made at step t, whatever stands between (norms, residual sums, heads). So
J_t = ds_t/ds_{t-1} is block lower-triangular in the order of the layers. With C_t = ds^l_t/ds^k_t and
E_t = ds^l_t/ds^k_{t-1} along the paths that pass no other state, row l of J_t is J^l_t on its own block and, for every
layer k below, C_t times row k of J_t, plus E_t on the block of k.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, reduce

import torch
from torch import Tensor

from gradscope.forward.autograd_graph import Graph, Value
from gradscope.forward.backward_sweep import Sweeper
from gradscope.forward.loop_jacobians import LoopChain, WrittenChain
from gradscope.forward.scaled_pull import Discarded, Pending, Term, pull_scaled
from gradscope.forward.walk import Walk

COLOURS = 3
"""Steps that far apart are pulled from at once: a layer reads the layers below at its own step and the one before."""
TOGETHER = 2**24
"""Numbers of one value, for all rows that are pulled at once."""
HELD = 2**26
"""Numbers of all C_t and E_t, up to which recurrences are joined."""


class NotJoined(Exception):  # noqa: N818 - a state of affairs, not a failure
    """Why recurrences have no joint state; in words for the user."""


class JoinedChain(WrittenChain):
    """J_t of all layers together, in one sequence."""

    def __init__(self, graph: Graph, chains: Sequence[LoopChain], names: Sequence[str]) -> None:
        """Take the layers in the order in which they run.

        Raises:
            NotJoined: they walk different steps, from different ends, or keep values over several steps.
        """
        self.graph, self.parts, self.names = graph, tuple(chains), tuple(names)
        kind = reduce(torch.promote_types, (chain.like.dtype for chain in chains))
        self.like = chains[0].like.to(kind)
        walks = [chain.walk for chain in chains]
        for name, walk in zip(names, walks, strict=True):
            if walk.backwards:
                raise NotJoined(f"{name} reads the sequence from its end")
            if len(walk.steps) != len(walks[0].steps):
                raise NotJoined(f"{name} walks {len(walk.steps)} steps, {names[0]} {len(walks[0].steps)}")
        self.owners, self.steps = owners(walks), steps_of(walks)
        self.begins = begins_of(walks)
        self.length = len(walks[0].steps) - self.begins
        self.size = sum(chain.size for chain in chains)
        blocks = sum(up.size * low.size for place, up in enumerate(self.parts) for low in self.parts[:place])
        if 2 * blocks * self.length > HELD:
            raise NotJoined(f"its Jacobians over {self.length} steps with {self.size} numbers of state take too much")
        self._kept: dict[int, Tensor] = {}

    @cached_property
    def couplings(self) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
        """C and E, each (T + 1, size, size), by place of the layer and of one below it.

        Raises:
            NotJoined: a layer reads other steps of one below it.
        """
        return {key: pair for place in range(1, len(self.parts)) for key, pair in self._below(place).items()}

    def _below(self, place: int) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
        upper, steps = self.parts[place], range(self.begins + 1, self.begins + self.length + 1)
        nodes = self._between(place)
        found = {
            (place, low): tuple(
                self.like.new_zeros(self.begins + self.length + 1, upper.size, self.parts[low].size) for _ in range(2)
            )
            for low in range(place)
        }
        widest = max((self.graph.shape((index, 0)).numel() for index in nodes), default=1)
        for colour in range(COLOURS):
            at = [t for t in steps if t % COLOURS == colour]
            rows = torch.eye(upper.size, dtype=self.like.dtype, device=self.like.device)

            def row(v: Tensor, at: Sequence[int] = at) -> tuple[Tensor, ...]:
                return self._pulled(v, place, at, nodes)

            if not at:
                continue
            try:
                made = torch.vmap(row, chunk_size=max(1, TOGETHER // widest))(rows)
            except RuntimeError:
                made = tuple(map(torch.stack, zip(*(row(v) for v in rows), strict=True)))
            for low, values in enumerate(made):
                self._sort(found[place, low], values.movedim(0, 1), colour, (place, low))
        return {key: (pair[0], pair[1]) for key, pair in found.items()}

    def _sort(self, pair: Sequence[Tensor], values: Tensor, colour: int, key: tuple[int, int]) -> None:
        """What arrived at s_0 .. s_T of a layer below, (T + 1, rows, columns): at its step, the one before, others."""
        for t, arrived in enumerate(values):
            away = (t - colour) % COLOURS
            if away == 0:
                pair[0][t] = arrived
            elif away == COLOURS - 1:
                if t < len(pair[1]) - 1:
                    pair[1][t + 1] = arrived
            elif bool(arrived.any()):
                up, low = (self.names[place] for place in key)
                raise NotJoined(f"{up} reads more of {low} than its own step")

    def _between(self, place: int) -> list[int]:
        """Operations that lead from states of layers below to states of a layer, last first."""
        reached: set[int] = set()
        for index in range(len(self.graph)):
            for read in self.graph.reads[index]:
                if read is not None and (read[0] in reached or self.owners.get(read, (place, 0))[0] < place):
                    reached.add(index)
        above: set[int] = set()
        stack = [v[0] for state in self.parts[place].walk.states[self.begins + 1 :] for v in state if v is not None]
        while stack:
            index = stack.pop()
            if index in above or index not in reached:
                continue
            above.add(index)
            stack += [
                read[0]
                for read in self.graph.reads[index]
                if read is not None and self.owners.get(read) in (None, self.steps.get(index))
            ]
        return sorted(above, reverse=True)

    def _pulled(self, v: Tensor, place: int, at: Sequence[int], nodes: Iterable[int]) -> tuple[Tensor, ...]:
        """What arrives at s_0 .. s_T of every layer below for the cotangent v of s_t, t in `at`: (T + 1, size)."""
        chain = self.parts[place]
        pending: dict[Value, Tensor] = {}
        arrived: dict[Value, Tensor] = {}
        for t in at:
            state = chain.walk.states[t]
            values = [value for value in state if value is not None]
            shapes = [self.graph.shape(value) for value in values]
            own = v[chain.places(state)]
            for value, shape, part in zip(values, shapes, own.split([s.numel() for s in shapes]), strict=True):
                pending[value] = part.reshape(shape).to(self.graph.form(value)[1])
        with torch.no_grad():
            for index in nodes:
                taken = [pending.get((index, nr)) for nr in range(self.graph.results(index))]
                if all(one is None for one in taken):
                    continue
                found = self.graph.apply(index, taken, skip_weights=True)
                for read, m in zip(self.graph.reads[index], found, strict=False):
                    if read is None or m is None:
                        continue
                    passes = self.owners.get(read) in (None, self.steps.get(index))
                    held = pending if passes else arrived
                    held[read] = m if read not in held else held[read] + m
        return tuple(self._laid_out(low, arrived, v) for low in range(place))

    def _laid_out(self, low: int, arrived: Mapping[Value, Tensor], v: Tensor) -> Tensor:
        chain, found = self.parts[low], []
        for state in chain.walk.states:
            whole = v.new_zeros(chain.size)
            parts = [
                arrived[value].reshape(-1).to(v) if value in arrived else v.new_zeros(self.graph.shape(value).numel())
                for value in state
                if value is not None
            ]
            found.append(whole.index_copy(0, chain.places(state), torch.cat(parts)) if parts else whole)
        return torch.stack(found)

    def jacobian(self, t: int) -> Tensor:
        """J_t, (size, size), t = 1 for the step after the first full state."""
        if t not in self._kept:
            rows: list[Tensor] = []
            step, start = self.begins + t, 0
            for place, chain in enumerate(self.parts):
                own = self.like.new_zeros(chain.size, self.size)
                own[:, start : start + chain.size] = chain.jacobian(step - chain.begins).to(own)
                begun = 0
                for low in range(place):
                    now, before = self.couplings[place, low]
                    own += now[step] @ rows[low]
                    own[:, begun : begun + self.parts[low].size] += before[step]
                    begun += self.parts[low].size
                rows.append(own)
                start += chain.size
            self._kept[t] = torch.cat(rows)
        return self._kept[t]

    @property
    def silent(self) -> tuple[int, ...]:
        """Steps at which a detach stops the gradient of every layer."""
        return tuple(sorted(set.intersection(*(set(chain.silent) for chain in self.parts))))


def begins_of(walks: Sequence[Walk]) -> int:
    """The first step at which every layer has a full state that is its own."""
    begins = max(walk.begins for walk in walks)
    while begins < min(len(walk.steps) for walk in walks):
        held = [{value for value in walk.states[begins] if value is not None} for walk in walks]
        if sum(map(len, held)) == len(set.union(*held)):
            break
        # Layers may begin with one and the same tensor of zeros.
        begins += 1
    return begins


def owners(walks: Sequence[Walk]) -> dict[Value, tuple[int, int]]:
    """Of every value of a state, from the first full one on, which walk's and at which step.

    Raises:
        NotJoined: a value is part of several states.
    """
    found: dict[Value, tuple[int, int]] = {}
    begins = begins_of(walks)
    for place, walk in enumerate(walks):
        for t, state in enumerate(walk.states[begins:], begins):
            for value in state:
                if value is None:
                    continue
                if value in found:
                    raise NotJoined("a part of its states stays as it is over several steps")
                found[value] = place, t
        for value, others in walk.ties.items() if begins == 0 else ():
            found |= dict.fromkeys(others, found[value])
    return found


def steps_of(walks: Sequence[Walk]) -> dict[int, tuple[int, int]]:
    """Of every operation of a step, which walk's and which step."""
    return {index: (place, step.t) for place, walk in enumerate(walks) for step in walk.steps for index in step.nodes}


def joint_gradients(
    graph: Graph, walks: Sequence[Walk], sweeper: Sweeper, leaf: int | None, seeds: Mapping[Value, list[Term]]
) -> Pending:
    """The gradient of every state as a coordinate of the joint one: without what passes other layers at its step.

    What enters s_t is what the loss reads of it past all states, and what s_{t+1} reads of it: J_{t+1}^T of the total
    gradients at step t + 1, along paths that pass no state.

    Args:
        graph: of the pass.
        walks: the layers.
        sweeper: goes back through it.
        leaf: the operation that stands for the input.
        seeds: gradients of what the module returned.
    """
    swept, _ = sweeper.sweep(dict(seeds), leaf, weights=None, every=True)
    known, steps = owners(walks), steps_of(walks)
    totals = {value: terms for one in swept for value, terms in one.values.items() if value in known}
    found, nowhere, order = Pending(graph), Discarded(graph), range(len(graph) - 1, -1, -1)

    def pull(given: Mapping[Value, list[Term]], parity: int | None) -> None:
        def deposit(index: int, place: int, read: Value) -> Pending | None:
            owner = known.get(read)
            if owner is None or (parity is not None and owner == steps.get(index)):
                # A step that makes one part of a state of another one goes on to the state before.
                return None
            return found if parity is None or owner[1] % 2 != parity else nowhere

        pull_scaled(graph, order, given, deposit=deposit)

    for value, terms in seeds.items():
        for m, e in terms if value in known else ():
            found.add(value, m, e)
    pull({value: terms for value, terms in seeds.items() if value not in known}, None)
    for parity in range(2):
        pull({value: terms for value, terms in totals.items() if known[value][1] % 2 == parity}, parity)
    return found


def walk_gradients(graph: Graph, walk: Walk, seeds: Mapping[Value, list[Term]]) -> list[Pending]:
    """The gradient of every part of s_0 .. s_T: what is read of it past all states, and by the step after.

    Of a state of several parts that is more than a sweep in the order of the operations tells: what a step makes of one
    part on the way to another (a residual sum) may go to the outputs too. A value that stays for several steps is
    part of each of their states: in a delay line outputs read it where it is made, and where a part rests at the step
    whose output it is.

    Args:
        graph: of the pass.
        walk: a recurrence.
        seeds: gradients of what the module returned.
    """
    found, made = [Pending(graph) for _ in walk.states], dict[Value, int]()
    last = dict[Value, int]()
    for t, state in enumerate(walk.states[walk.begins :], walk.begins):
        for place, value in enumerate(state):
            if value is not None:
                made.setdefault(value, t)
                rests = t > walk.begins and walk.states[t - 1][place : place + 1] == (value,)
                last[value] = t if rests else last.get(value, t)
    for value, others in walk.ties.items() if walk.begins == 0 else ():
        made |= dict.fromkeys(others, made[value])
        last |= dict.fromkeys(others, last[value])

    def stop(index: int, place: int, read: Value) -> Pending | None:
        if read not in made:
            return None
        return found[max(made[read], min(last[read], walk.readers.get((index, place), last[read])))]

    for value, terms in seeds.items():
        for m, e in terms if value in made else ():
            found[last[value]].add(value, m, e)
    direct = {value: terms for value, terms in seeds.items() if value not in made}
    pull_scaled(graph, range(len(graph) - 1, -1, -1), direct, deposit=stop)
    for step in reversed(walk.steps[walk.begins :]):
        begun = {value for value in step.before if value is not None}
        begun |= {other for value in begun for other in walk.ties.get(value, ())}
        older = found[step.t - 1]

        def before(
            index: int, place: int, read: Value, begun: set[Value] = begun, to: Pending = older
        ) -> Pending | None:
            return to if read in begun else None

        after = {value: list(found[step.t].look(value)) for value in step.after if value is not None}
        for value in after.keys() & begun:
            for m, e in after.pop(value):
                older.add(value, m, e)
        pull_scaled(graph, reversed(step.nodes), after, deposit=before)
    return found

"""One sequence through a model, opened: its graph, the recurrences found in it, and what they are called."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gradscope.forward.autograd_graph import Graph, Value
from gradscope.forward.backward_sweep import Sweeper
from gradscope.forward.call_sites import Call, CallSites, lifetimes
from gradscope.forward.executed_steps import Executed
from gradscope.forward.loop_extractor import LoopExtractor, levels
from gradscope.forward.loop_jacobians import LoopChain
from gradscope.forward.recorder import Recording, record
from gradscope.forward.step_labels import StepLabels
from gradscope.forward.time_index import TimeIndex
from gradscope.forward.walk import Walk, state_values
from gradscope.models.user_modules import alike
from gradscope.models.whole_module import WholeModule


@dataclass(eq=False)
class TracedPass:
    """A pass of one sequence."""

    model: WholeModule
    x: Tensor
    """As the module takes it."""
    recording: Recording
    graph: Graph
    labels: StepLabels
    """In the direction of time."""
    walks: tuple[Walk, ...]
    axis: int
    """Of time in the input."""
    look: CallSites
    """How long values live."""
    forwarded: bool = False
    """Whether what is taken out of a stack was put in the place of the piece."""
    answers: Sequence[Any] = ()
    """What Python was told when it looked at numbers, where that was laid down."""

    @cached_property
    def types(self) -> frozenset[torch.dtype]:
        """Number types that took part in the pass."""
        return self.recording.types | self.graph.types

    @property
    def leaf(self) -> int | None:
        """The operation that stands for the input."""
        return _place(self.graph, self.recording.given)

    @property
    def missing(self) -> frozenset[Call]:
        """Calls that made parts of last states which the graph does not lead to: the last from the same place."""
        if self.recording.count != self.look.count:
            return frozenset()
        found = {result for walk in self.walks for result in walk.missing}
        if self._is_late:
            found |= {call for (node, _), call in self.recording.calls.items() if node not in self.graph.place}
        for walk in self.walks:
            for value in () if walk.missing else walk.lost:
                call = self.recording.calls.get((self.graph.nodes[value[0]], value[1]))
                place = None if call is None else self.look.positions[call[0] - 1]
                later = [
                    nr for nr, other in enumerate(self.look.positions, 1) if call and nr > call[0] and other == place
                ]
                if call is not None and later:
                    found.add((later[-1], call[1]))
        return frozenset(found) - self.recording.kept.keys()

    @property
    def _is_late(self) -> bool:
        """Whether the graph holds a loop from a later step on: what was before a restart is not part of it."""
        # Of a state that is learned, what the first step makes is made of one input alone.
        steps = [
            mark.label
            for index, mark in enumerate(self.labels.marks)
            if mark is not None and mark.label and any(self._is_of_step(read) for read in self.graph.reads[index])
        ]
        return bool(steps) and min(steps) > 1

    def _is_of_step(self, read: Value | None) -> bool:
        mark = self.labels.of(read)
        return mark is not None and bool(mark.label)

    @cached_property
    def chains(self) -> tuple[LoopChain, ...]:
        """The Jacobians of every walk that has a state of its own."""
        like = self.recording.outputs[0]
        return tuple(LoopChain(self.graph, walk, like) for walk in self.walks if walk.steps)

    @cached_property
    def sweeper(self) -> Sweeper:
        """Goes back through it."""
        return Sweeper(self.graph, self.labels, self.walks)

    def states(self, walk: Walk) -> tuple[list[list[Tensor | None]], list[str]]:
        """Values of s_0 .. s_T, one tensor or None for every part of the state, and the parts' names."""
        return state_values(self.model, self.x, self.recording, self.graph, walk, self.answers)


def trace_pass(
    model: WholeModule,
    x: Tensor,
    *,
    axis: int = 1,
    look: CallSites | None = None,
    plain: bool = False,
    answers: Sequence[Any] = (),
) -> TracedPass:
    """Run one sequence and find its recurrences.

    Args:
        model: what is run.
        x: one sequence as the module takes it.
        axis: of time in it.
        look: how long values live, where a pass like this one was looked at before.
        plain: whether to leave the states that the module makes as they are.
        answers: what Python is told when it looks at numbers, instead of what they are.
    """
    with uncollected():
        return _opened(model, x, axis, look, plain, answers)


@contextmanager
def uncollected() -> Iterator[None]:
    """Without the garbage collector, which would go through all nodes of a growing graph again and again."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _opened(
    model: WholeModule, x: Tensor, axis: int, look: CallSites | None, plain: bool, answers: Sequence[Any]
) -> TracedPass:
    recording = record(model, x, plain=plain, answers=answers)
    if look is None or look.count != recording.count:
        look = lifetimes(model, x, answers)
        if not plain and (recording.count != look.count or not alike(recording.raw, look.raw, recording.types)):
            # What the recorder adds has changed what the module does: without it, its own states have no gradient.
            recording = record(model, x, plain=True, answers=answers)
    found = _read(model, x, axis, look, recording, answers)
    if missing := found.missing:
        # The last step makes parts of a state that nothing returned is made of: they are part of it all the same.
        kept = record(model, x, plain=recording.plain, answers=answers, keep=missing)
        found = _read(model, x, axis, look, kept, answers)
    return found


def _read(
    model: WholeModule, x: Tensor, axis: int, look: CallSites, recording: Recording, answers: Sequence[Any]
) -> TracedPass:
    """The recurrences of a recorded pass."""
    graph = Graph.of(recording.ends)
    leaf = _place(graph, recording.given)
    starts = [place for start in recording.starts if (place := _place(graph, start)) is not None]
    steps = x.shape[axis]
    lifetime = _lifetime(graph, recording, look)
    told = recording.count == look.count
    executed = Executed.of(graph, recording.calls, look.positions, look.lifetimes) if told else None

    whole = graph

    def read(graph: Graph, *, backwards: bool = False, blocks: bool = False) -> tuple[StepLabels, list[Walk]]:
        labels = StepLabels(graph, leaf, starts, TimeIndex(leaf, axis, steps, backwards=backwards, blocks=blocks))
        # Layers that run one after the other are one loop only in the graph, and not in the order of the code.
        code = executed if graph is whole else None
        loops = [LoopExtractor(graph, labels, level, lifetime, code) for level in levels(labels)]
        if not backwards and not blocks and any(loop.leaves_out() for loop in loops):
            return labels, [Walk(0, backwards, (), rests=True)]
        walks = [loop.walk(backwards) for loop in loops]
        return labels, [walk for walk in walks if walk is not None]

    labels, walks = read(graph)
    forwarded = False
    if any(walk.rests for walk in walks):
        return TracedPass(model, x, recording, graph, labels, tuple(walks), axis, look, forwarded, answers)
    back = read(graph, backwards=True)[1] if _falls(labels) else []
    # What a loop from the first step to the last is made of is none from the last to the first.
    back = [walk for walk in back if not walk.nodes & frozenset().union(*(other.nodes for other in walks))]
    walks += back
    if not back and len(walks) > 1 and len((joint := read(short := graph.forwarded()))[1]) == 1:
        graph, (labels, walks) = short, joint
        forwarded = True
    if not walks:
        _, walks = read(graph, blocks=True)
    return TracedPass(model, x, recording, graph, labels, tuple(walks), axis, look, forwarded, answers)


def _lifetime(graph: Graph, recording: Recording, look: CallSites) -> Callable[[Value], int]:
    """Lifetimes of values; 0 where they are not known."""
    same = recording.count == look.count

    def lifetime(value: Value) -> int:
        call = recording.calls.get((graph.nodes[value[0]], value[1]))
        return look.lifetimes.get(call, 0) if same and call is not None else 0

    return lifetime


def _place(graph: Graph, tensor: Tensor | None) -> int | None:
    value = None if tensor is None else graph.value(tensor)
    return None if value is None else value[0]


def _falls(labels: StepLabels) -> bool:
    """Whether some loop takes its steps from the last to the first."""
    before, run = 0, 0
    for index, mark in enumerate(labels.marks):
        if mark is None or not mark.pure or not labels.graph.names[index].startswith(("Select", "Slice", "Index")):
            continue
        run = run + 1 if (mark.label or 0) == before - 1 else 0
        before = mark.label or 0
        if run >= 2:
            return True
    return _unbound(labels)


def _unbound(labels: StepLabels) -> bool:
    """Whether all steps were taken apart at once, so that any order may follow."""
    return any(nr > 1 for _, nr in labels.apart)


def walk_names(one: TracedPass) -> tuple[str, ...]:
    """A name for every walk, distinct: the module path its state's variables share, else `loop`."""
    found: list[str] = []
    for walk in one.walks:
        parts = [name.split("#")[0].rpartition(".")[0] for name in one.states(walk)[1]] if walk.steps else []
        paths = [part for part in parts if part]
        name = _shared(paths) if paths and len(paths) == len(parts) else ""
        name = (name or "loop") + (".reverse" if walk.backwards else "")
        taken = sum(other == name or other.startswith(f"{name}#") for other in found)
        found.append(f"{name}#{taken + 1}" if taken else name)
    return tuple(found)


def _shared(paths: list[str]) -> str:
    """The dotted path that all begin with."""
    split = [path.split(".") for path in paths]
    shared = []
    for words in zip(*split, strict=False):
        if len(set(words)) > 1:
            break
        shared.append(words[0])
    return ".".join(shared)

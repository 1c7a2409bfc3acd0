"""Which parameters a recurrence multiplies its state with, and which gates keep it, read off one step of the graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from gradscope.forward.autograd_graph import PRODUCTS, Graph, Read, Value, signed
from gradscope.forward.keeping_gates import GateReader, Keep
from gradscope.forward.step_reader import Piece, StepReader
from gradscope.forward.traced_pass import TracedPass
from gradscope.forward.walk import Step, Walk
from gradscope.torch_private import saved

Places = frozenset[int]
"""Of parts, by their order in the state."""
NONE: Places = frozenset()


class Parts:
    """The parts of the states before and after a step."""

    def __init__(self, graph: Graph, step: Step, places: Mapping[Value, int]) -> None:
        """Take the step, and for each value of the state before its place there."""
        self.graph, self.step, self.places = graph, step, places

    def comes_back(self, sources: Places, index: int) -> bool:
        """Whether what an operation makes of some parts is heard by one of them again, at once or steps later."""
        if len(self.step.before) != len(self.step.after):
            return True
        return any(sources & self.later[place] for place in self._leads.get(index, NONE))

    @cached_property
    def later(self) -> list[Places]:
        """For every part, itself and the parts that hear of it some steps later."""
        edges: list[set[int]] = [set() for _ in self.step.before]
        for place, value in enumerate(self.step.after):
            for source in self._known(value, self._all):
                edges[source].add(place)
        found = []
        for place in range(len(edges)):
            seen, stack = {place}, [place]
            while stack:
                fresh = edges[stack.pop()] - seen
                seen |= fresh
                stack += fresh
            found.append(frozenset(seen))
        return found

    @cached_property
    def _all(self) -> dict[int, Places]:
        """For every operation of the step, the parts before that it depends on."""
        found: dict[int, Places] = {}
        for index in self.step.nodes:
            found[index] = NONE.union(*(self._known(read, found) for read in self.graph.reads[index]))
        return found

    @cached_property
    def _leads(self) -> dict[int, Places]:
        """For every operation of the step, the parts after that depend on it."""
        found: dict[int, Places] = {}
        for place, value in enumerate(self.step.after):
            if value is not None:
                found[value[0]] = found.get(value[0], NONE) | {place}
        for index in reversed(self.step.nodes):
            for read in self.graph.reads[index]:
                if read is not None and read not in self.places:
                    found[read[0]] = found.get(read[0], NONE) | found.get(index, NONE)
        return found

    def _known(self, value: Read, found: dict[int, Places]) -> Places:
        if value is None:
            return NONE
        return frozenset({self.places[value]}) if value in self.places else found.get(value[0], NONE)


TURNS = ("TBackward0", "TransposeBackward0", "PermuteBackward0")


@dataclass(frozen=True)
class Matrix:
    """What multiplies the state."""

    piece: Piece
    axis: int
    """The one along the state before."""


@dataclass(frozen=True)
class Weights:
    """Of one recurrence."""

    matrices: tuple[Matrix, ...]
    keeps: tuple[Keep, ...]


def recurrent_weights(one: TracedPass, prefix: str = "") -> list[Weights]:
    """Of every recurrence of a pass, in the order of its walks; `prefix` is left out of the names."""
    names = {id(value): name.removeprefix(prefix) for name, value in one.model.module.named_parameters()}
    found = []
    for walk in (walk for walk in one.walks if walk.steps):
        matrices = MatrixReader(one.graph, walk, names).matrices()
        found.append(Weights(matrices, GateReader(one.graph, walk, names).keeps()))
    return found


class MatrixReader(StepReader):
    """Finds recurrent matrices."""

    def __init__(self, graph: Graph, walk: Walk, names: Mapping[int, str]) -> None:
        """Take the walk, and follow the state before to where the first products read it."""
        super().__init__(graph, walk, names)
        self.parts = Parts(graph, self.step, self.before)
        ends = {value[0] for value in self.after}
        self.direct: dict[int, Places] = {}
        """Operations that parts of the state before reach on a way without another product or a state after on it."""
        for index in self.step.nodes:
            sources = NONE.union(*(self._sources(read) for read in graph.reads[index]))
            if sources and index not in ends and index not in graph.products:
                self.direct[index] = sources

    def _sources(self, read: Read) -> Places:
        """Parts of the state before that a value is, or comes of directly."""
        if read is None:
            return NONE
        return frozenset({self.before[read]}) if read in self.before else self.direct.get(read[0], NONE)

    def matrices(self) -> tuple[Matrix, ...]:
        """Distinct ones, in order of use."""
        return tuple(dict.fromkeys(piece for index in self.step.nodes for piece in self._matrices(index)))

    def _matrices(self, index: int) -> Iterator[Matrix]:
        name, reads = self.graph.names[index], self.graph.reads[index]
        if index not in self.graph.products or not self._sources(reads[PRODUCTS[name]]):
            return
        source, axis = reads[PRODUCTS[name] + 1], 0
        while source is not None and self.graph.names[source[0]] in TURNS:
            source, axis = self.graph.reads[source[0]][0], 1 - axis
        piece = self.piece(source)
        if piece is None or len(piece.spans) != 2:
            return
        for start, length, sources in self._stretches(reads[PRODUCTS[name]]):
            if self.parts.comes_back(sources, index):
                yield Matrix(piece.within(axis, start, length), axis)

    def _stretches(self, value: Read) -> Iterator[tuple[int, int, Places]]:
        """Which of the columns of what is multiplied come of the state, and of which of its parts."""
        assert value is not None
        whole = self.graph.shape(value)[-1]
        while value not in self.before and not self._joins_columns(value):
            # What is done to each number in its place (dropout, normalisation) leaves columns where they are.
            following = [read for read in self.graph.reads[value[0]] if self._sources(read) and read is not None]
            wide = [read for read in following if self.graph.shape(read)[-1:] == (whole,)]
            if len(wide) != 1:
                break
            value = wide[0]
        if value in self.before or not self._joins_columns(value):
            yield 0, whole, self._sources(value)
            return
        # What was put together and wants no gradient has no shape in the graph: only one such is told from the rest.
        reads = self.graph.reads[value[0]]
        sizes = [None if read is None else self.graph.shape(read)[-1] for read in reads]
        if sizes.count(None) > 1:
            return
        rest = whole - sum(size for size in sizes if size is not None)
        start = 0
        for read, size in zip(reads, sizes, strict=True):
            if self._sources(read):
                yield start, size or 0, self._sources(read)
            start += rest if size is None else size

    def _joins_columns(self, value: Value) -> bool:
        if self.graph.names[value[0]] != "CatBackward0":
            return False
        axes = len(self.graph.shape(value))
        return signed(saved(self.graph.nodes[value[0]], "dim")) % axes == axes - 1

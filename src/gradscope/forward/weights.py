"""Which parameters a recurrence multiplies its state with, and which gates keep it, read off one step of the graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gradscope.forward.gates import GateReader, Keep
from gradscope.forward.graph import PRODUCTS, Graph, Read, Value, signed
from gradscope.forward.opened import Opened
from gradscope.forward.parts import NONE, Parts, Places
from gradscope.forward.step_reader import Piece, StepReader
from gradscope.forward.walk import Walk

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


def recurrent_weights(one: Opened, prefix: str = "") -> list[Weights]:
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
        return signed(self.graph.nodes[value[0]]._saved_dim) % axes == axes - 1

"""Which parameters a recurrence multiplies its state with, and which biases set the gates that keep it.

Both are read off one step of the graph. A recurrent matrix multiplies what depends on the state before. A gate keeps
the state if it is a sigmoid, or one minus it, that multiplies the state before itself, and the product is but added to
(or bounded by tanh) on its way to the state after: f of `f * c + i * g`, z of `(1 - z) * n + z * h` and of
`n + z * (h - n)`, not r of `tanh(U (r * h))`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from gradscope.forward.graph import PRODUCTS, Graph, Read, Value
from gradscope.forward.opened import Opened
from gradscope.forward.pull import piece_of
from gradscope.forward.walk import Step, Walk

TURNS = ("TBackward0", "TransposeBackward0", "PermuteBackward0")
SAME = tuple(f"{name}Backward0" for name in ("View", "UnsafeView", "Unsqueeze", "Squeeze", "Clone", "Expand", "Alias"))
SUMS = ("AddBackward0", "SubBackward0", "CatBackward0", "StackBackward0", "TanhBackward0", *SAME)
SHUT = "RsubBackward1"


@dataclass(frozen=True)
class Piece:
    """A stretch of a parameter along each of its axes."""

    name: str
    spans: tuple[tuple[int, int], ...]
    """(start, length) by axis."""

    @classmethod
    def whole(cls, name: str, value: Tensor) -> Piece:
        """All of it."""
        return cls(name, tuple((0, size) for size in value.shape))

    def within(self, axis: int, start: int, length: int) -> Piece:
        """A stretch of it along one axis."""
        spans = list(self.spans)
        spans[axis] = (spans[axis][0] + start, length)
        return Piece(self.name, tuple(spans))

    def of(self, module: nn.Module) -> Tensor:
        """It, as a view of the module's own numbers."""
        found: Tensor = module.get_parameter(self.name)
        for axis, (start, length) in enumerate(self.spans):
            found = found.narrow(axis, start, length)
        return found

    def code(self, module: nn.Module) -> str:
        """The same in Python, of a module called `model`."""
        sizes = module.get_parameter(self.name).shape
        said = f'model.get_parameter("{self.name}")'
        places = [
            ":" if length == size else f"{start}:{start + length}"
            for (start, length), size in zip(self.spans, sizes, strict=True)
        ]
        return said if set(places) == {":"} else f"{said}[{', '.join(places)}]"


@dataclass(frozen=True)
class Matrix:
    """What multiplies the state."""

    piece: Piece
    axis: int
    """The one along the state before."""


@dataclass(frozen=True)
class Keep:
    """A gate that keeps the state where its pre-activation is large (`sign` 1) or small (-1)."""

    sign: int
    biases: tuple[Piece, ...]
    """Added to each other in its pre-activation."""


@dataclass(frozen=True)
class Weights:
    """Of one recurrence."""

    matrices: tuple[Matrix, ...]
    keeps: tuple[Keep, ...]


def recurrent_weights(one: Opened, prefix: str = "") -> list[Weights]:
    """Of every recurrence of a pass, in the order of its walks; `prefix` is left out of the names."""
    names = {id(value): name.removeprefix(prefix) for name, value in one.model.module.named_parameters()}
    return [_Reader(one.graph, walk, names).weights() for walk in one.walks if walk.steps]


class _Reader:
    """Reads the middle step of a walk."""

    def __init__(self, graph: Graph, walk: Walk, names: Mapping[int, str]) -> None:
        self.graph, self.names = graph, names
        self.step: Step = walk.steps[len(walk.steps) // 2]
        tied = [other for value in self.step.before if value for other in walk.ties.get(value, ())]
        self.before = {*(value for value in self.step.before if value is not None), *tied}
        self.after = {value for value in self.step.after if value is not None}
        self.dependent: set[int] = set()
        for index in self.step.nodes:
            if any(self._depends(read) for read in graph.reads[index]):
                self.dependent.add(index)

    def _depends(self, read: Read) -> bool:
        return read is not None and (read in self.before or read[0] in self.dependent)

    def weights(self) -> Weights:
        """Distinct ones, in order of use."""
        matrices = dict.fromkeys(piece for index in self._ordered() for piece in self._matrices(index))
        keeps = dict.fromkeys(keep for index in self._ordered() if (keep := self._keep(index)) is not None)
        return Weights(tuple(matrices), tuple(keeps))

    def _ordered(self) -> list[int]:
        return sorted(self.dependent)

    def _matrices(self, index: int) -> Iterator[Matrix]:
        name, reads = self.graph.names[index], self.graph.reads[index]
        if index not in self.graph.products or not self._depends(reads[PRODUCTS[name]]):
            return
        source, axis = reads[PRODUCTS[name] + 1], 0
        while source is not None and self.graph.names[source[0]] in TURNS:
            source, axis = self.graph.reads[source[0]][0], 1 - axis
        piece = self._piece(source)
        if piece is None or len(piece.spans) != 2:
            return
        for start, length in self._stretches(reads[PRODUCTS[name]]):
            yield Matrix(piece.within(axis, start, length), axis)

    def _piece(self, value: Read) -> Piece | None:
        """The part of a parameter that a value is, where it is one."""
        known = self._parameter(value)
        if value is None or known is not None:
            return None if known is None else Piece.whole(*known)
        taken = self._taken(value)
        source = None if taken is None else self._piece(self.graph.reads[value[0]][0])
        return None if taken is None or source is None else source.within(*taken)

    def _taken(self, value: Value) -> tuple[int, int, int] | None:
        """(axis, start, length) of what is a stretch of what it reads."""
        index, nr = value
        if self.graph.names[index] == "SplitBackward0":
            node, shape = self.graph.nodes[index], self.graph.shape(value)
            axis = node._saved_dim % len(shape)
            return axis, nr * int(node._saved_split_size), shape[axis]
        found = piece_of(self.graph, index)
        return found if found is not None and found[2] else None

    def _stretches(self, value: Read) -> Iterator[tuple[int, int]]:
        """Which of the columns of what is multiplied depend on the state."""
        assert value is not None
        if self.graph.names[value[0]] != "CatBackward0" or value in self.before:
            yield 0, self.graph.shape(value)[-1]
            return
        # What was put together and wants no gradient has no shape in the graph: it can stand at one end alone.
        reads, whole = self.graph.reads[value[0]], self.graph.shape(value)[-1]
        sizes = [None if read is None else self.graph.shape(read)[-1] for read in reads]
        if sizes.count(None) > 1:
            return
        rest = whole - sum(size for size in sizes if size is not None)
        start = 0
        for read, size in zip(reads, sizes, strict=True):
            if self._depends(read):
                yield start, size or 0
            start += rest if size is None else size

    def _parameter(self, value: Read) -> tuple[str, Tensor] | None:
        if value is None or not self.graph.is_leaf[value[0]]:
            return None
        leaf = self.graph.nodes[value[0]].variable
        return (self.names[id(leaf)], leaf) if id(leaf) in self.names else None

    def _keep(self, index: int) -> Keep | None:
        """The gate of a product with the state, if it is one."""
        gated = self._gated(index)
        if gated is None or not self._is_added(index):
            return None
        gate, sign = gated
        start, length = 0, self.graph.shape((index, 0))[-1]
        while True:
            name, reads = self.graph.names[gate[0]], self.graph.reads[gate[0]]
            if name == "SigmoidBackward0":
                break
            if reads[0] is None and len(reads) < 2:
                return None
            if name == SHUT:
                sign, following = -sign, reads[0]
            elif name == "SubBackward0" and reads[0] is None:
                sign, following = -sign, reads[1]
            else:
                moved = self._moved(gate, start)
                if moved is None:
                    return None
                following, start = moved
            if following is None:
                return None
            gate = following
        biases = tuple(dict.fromkeys(self._biases(self.graph.reads[gate[0]][0], start, length)))
        return Keep(sign, biases) if biases else None

    def _gated(self, index: int) -> tuple[Value, int] | None:
        """What multiplies the state before, and whether it keeps (1) or shuts (-1)."""
        name, reads = self.graph.names[index], self.graph.reads[index]
        if name == "LerpBackward1":
            start, end, weight = reads
            if weight is not None and self._is_state(start) != self._is_state(end):
                return weight, 1 if self._is_state(end) else -1
        if name != "MulBackward0" or len(reads) != 2:
            return None
        for gate, other in (reads, reads[::-1]):
            if gate is None or other is None:
                continue
            if self._is_state(other):
                return gate, 1
            if self.graph.names[other[0]] == "SubBackward0":
                kept, left = self.graph.reads[other[0]]
                if self._is_state(kept) != self._is_state(left):
                    return gate, 1 if self._is_state(kept) else -1
        return None

    def _is_state(self, value: Read) -> bool:
        """Whether it is the state before, or a piece of it."""
        while value is not None and value not in self.before:
            moved = self._moved(value, 0)
            value = None if moved is None else moved[0]
        return value is not None

    def _is_added(self, index: int) -> bool:
        """Whether a result is but added to, and put together with others, on its way to the state after."""
        stack, seen = [index], set()
        while stack:
            place = stack.pop()
            if any((place, nr) in self.after for nr in range(self.graph.results(place))):
                return True
            seen.add(place)
            stack += [
                user for user, _ in self.graph.users[place] if user not in seen and self.graph.names[user] in SUMS
            ]
        return False

    def _moved(self, value: Value, start: int) -> tuple[Read, int] | None:
        """Where column `start` of a value that is a piece of another lies in that one."""
        name, source = self.graph.names[value[0]], (self.graph.reads[value[0]] or (None,))[0]
        if source is None:
            return None
        if (stacked := self.graph.stacked(*value)) != value:
            return stacked, start
        last = len(self.graph.shape(source)) - 1
        if name in SAME:
            return (source, start) if self.graph.shape(source)[-1:] == self.graph.shape(value)[-1:] else None
        if (taken := self._taken(value)) is not None:
            axis, begins, _ = taken
            return source, start + begins if axis == last else start
        return None

    def _biases(self, value: Read, start: int, length: int) -> Iterator[Piece]:
        """Parameters that are added to columns `start` .. of a value."""
        if value is None:
            return
        known, index = self._parameter(value), value[0]
        if known is not None:
            name, leaf = known
            if leaf.ndim and leaf.numel() == leaf.shape[-1] >= start + length:
                yield Piece.whole(name, leaf).within(leaf.ndim - 1, start, length)
            return
        reads = self.graph.reads[index]
        if self.graph.names[index] == "AddmmBackward0":
            yield from self._biases(reads[0], start, length)
        elif self.graph.names[index] == "AddBackward0":
            for read in reads:
                yield from self._biases(read, start, length)
        elif (moved := self._moved(value, start)) is not None:
            yield from self._biases(moved[0], moved[1], length)

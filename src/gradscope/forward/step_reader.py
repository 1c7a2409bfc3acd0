"""One step of a recurrence in the graph: what comes of the state before, and what values are pieces of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from gradscope.forward.autograd_graph import Graph, Read, Value, signed
from gradscope.forward.scaled_pull import piece_of
from gradscope.forward.walk import Step, Walk
from gradscope.torch_private import saved

SAME = tuple(f"{name}Backward0" for name in ("View", "UnsafeView", "Unsqueeze", "Squeeze", "Clone", "Expand", "Alias"))


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


class StepReader:
    """The middle step of a walk."""

    def __init__(self, graph: Graph, walk: Walk, names: Mapping[int, str]) -> None:
        """Take the walk; `names` by the identity of parameters."""
        self.graph, self.names = graph, names
        self.step: Step = walk.steps[len(walk.steps) // 2]
        own = {value: place for place, value in enumerate(self.step.before) if value is not None}
        self.before = {**own, **{other: own[value] for value in own for other in walk.ties.get(value, ())}}
        """Values of the state before, and which of its parts each is."""
        self.after = {value for value in self.step.after if value is not None}

    def piece(self, value: Read) -> Piece | None:
        """The part of a parameter that a value is, where it is one."""
        known = self.parameter(value)
        if value is None or known is not None:
            return None if known is None else Piece.whole(*known)
        taken = self.taken(value)
        source = None if taken is None else self.piece(self.graph.reads[value[0]][0])
        return None if taken is None or source is None else source.within(*taken)

    def parameter(self, value: Read) -> tuple[str, Tensor] | None:
        """Name and numbers of a parameter; None for any other value."""
        if value is None or not self.graph.is_leaf[value[0]]:
            return None
        leaf = self.graph.nodes[value[0]].variable
        return (self.names[id(leaf)], leaf) if id(leaf) in self.names else None

    def is_state(self, value: Read) -> bool:
        """Whether it is the state before, or a piece of it."""
        while value is not None and value not in self.before:
            moved = self.moved(value, 0)
            value = None if moved is None else moved[0]
        return value is not None

    def moved(self, value: Value, start: int) -> tuple[Read, int] | None:
        """Where column `start` of a value that is a piece of another lies in that one."""
        if self.graph.is_leaf[value[0]]:
            return None
        name, source = self.graph.names[value[0]], (self.graph.reads[value[0]] or (None,))[0]
        if source is None:
            return None
        if (stacked := self.graph.stacked(*value)) != value:
            return stacked, start
        if (folded := self._folded(value, source)) is not None:
            return folded[0], folded[1] + start
        last = len(self.graph.shape(source)) - 1
        if name in SAME:
            return (source, start) if self.graph.shape(source)[-1:] == self.graph.shape(value)[-1:] else None
        if (taken := self.taken(value)) is not None:
            axis, begins, _ = taken
            return source, start + begins if axis == last else start
        return None

    def taken(self, value: Value) -> tuple[int, int, int] | None:
        """(axis, start, length) of what is a stretch of what it reads."""
        index, nr = value
        if self.graph.names[index] == "SplitBackward0":
            node, shape = self.graph.nodes[index], self.graph.shape(value)
            axis = signed(saved(node, "dim")) % len(shape)
            return axis, nr * int(saved(node, "split_size")), shape[axis]
        found = piece_of(self.graph, index)
        return found if found is not None and found[2] else None

    def _folded(self, value: Value, source: Value) -> tuple[Value, int] | None:
        """Where a row of (..., gates, H) that is a view of (..., gates * H) begins in that."""
        index, nr = value
        name, before = self.graph.names[index], (self.graph.reads[source[0]] or (None,))[0]
        if name not in ("UnbindBackward0", "SelectBackward0") or before is None:
            return None
        shape, flat = self.graph.shape(source), self.graph.shape(before)
        if self.graph.names[source[0]] not in SAME or len(shape) < 2 or flat[-1:] != (shape[-1] * shape[-2],):
            return None
        node = self.graph.nodes[index]
        if signed(saved(node, "dim")) % len(shape) != len(shape) - 2:
            return None
        row = nr if name == "UnbindBackward0" else signed(saved(node, "index")) % shape[-2]
        return before, row * shape[-1]

"""The graph of a recorded pass: operations in the order in which they ran, what each read, and what it made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gradscope.errors import UsageError
from gradscope.text import safe_text
from gradscope.torch_private import leaf_of, order_of, results_of, saved, saved_names, sources

PRODUCTS = {"AddmmBackward0": 1, "MmBackward0": 0}
"""At which place x is read by what multiplies it with a weight."""
WRITES = frozenset(
    f"{name}Backward{nr}"
    for name in ("IndexCopy", "IndexPut", "IndexAdd", "IndexFill", "Scatter", "SelectScatter", "SliceScatter")
    for nr in range(2)
) | {"CopySlices"}
"""Operations that put something into a tensor, which is the first of what they read."""
VIEWS = frozenset(
    f"{name}Backward0" for name in ("Stack", "Select", "View", "Unsqueeze", "Squeeze", "Clone", "Alias", "UnsafeView")
)
"""Operations that pass on the numbers of what they read."""
Value = tuple[int, int]
"""An operation's place in the graph, and which of its results."""
Read = Value | None
"""What an operation was made from; None for what has no gradient."""


@dataclass(eq=False)
class Graph:
    """Operations, inputs before outputs; a leaf is an operation of its own."""

    nodes: list[Any]
    """Autograd's own nodes."""
    reads: list[tuple[Read, ...]]
    """For every operation, the values it was made from."""
    place: dict[Any, int]
    """Where a node stands."""
    products: frozenset[int] = frozenset()
    """Operations that multiply with what depends on no input."""
    pieces: list[tuple[int, int, int] | None] | None = None
    """(axis, start, length) of the operations that take a piece of what they read, once somebody asked."""

    @classmethod
    def of(cls, outputs: Iterable[Tensor]) -> Graph:
        """All that the outputs were made from.

        Raises:
            UsageError: torch has no gradient for one of the operations.
        """
        stack = [edge.node for out in outputs if (edge := _edge(out)) is not None]
        following: dict[Any, Any] = {}
        while stack:
            node = stack.pop()
            if node in following:
                continue
            if type(node).__name__ == "NotImplemented":
                raise UsageError(
                    "torch has no gradient for an operation of the module (as of t % parameter); does its "
                    "loss.backward() work?"
                )
            following[node] = sources(node)
            stack += [one for one, _ in following[node] if one is not None and one not in following]
        nodes = sorted(following, key=_order)
        place = {node: index for index, node in enumerate(nodes)}
        numbers: dict[Any, int | None] = {None: None, **place}
        reads = [
            tuple([None if (at := numbers[one]) is None else (at, nr) for one, nr in following[node]]) for node in nodes
        ]
        return cls(nodes, reads, place)

    def __len__(self) -> int:
        return len(self.nodes)

    def value(self, tensor: Tensor) -> Value | None:
        """Where a tensor was made; None for one without gradient, or outside this graph."""
        edge = _edge(tensor)
        return None if edge is None or edge.node not in self.place else (self.place[edge.node], edge.output_nr)

    def shape(self, value: Value) -> torch.Size:
        """Of a value."""
        if value not in self._shapes:
            node = self.nodes[value[0]]
            leaf = leaf_of(node)
            self._shapes[value] = torch.Size(results_of(node)[value[1]].shape if leaf is None else leaf.shape)
        return self._shapes[value]

    def form(self, value: Value) -> tuple[torch.Size, torch.dtype]:
        """Shape and number type of a value."""
        node = self.nodes[value[0]]
        leaf = leaf_of(node)
        return self.shape(value), results_of(node)[value[1]].dtype if leaf is None else leaf.dtype

    @cached_property
    def forms(self) -> list[list[tuple[torch.Size, torch.dtype] | None] | None]:
        """Shapes and number types of what every operation reads, once somebody asked."""
        return [None] * len(self.nodes)

    @cached_property
    def _shapes(self) -> dict[Value, torch.Size]:
        return {}

    @cached_property
    def types(self) -> frozenset[torch.dtype]:
        """Number types of what the operations made."""
        made = (
            meta.dtype
            for node, leaf in zip(self.nodes, self.is_leaf, strict=True)
            if not leaf
            for meta in results_of(node)
        )
        return frozenset(kind for kind in made if kind.is_floating_point)

    @cached_property
    def is_leaf(self) -> list[bool]:
        """Whether an operation is none, but a leaf."""
        return [leaf_of(node) is not None for node in self.nodes]

    @property
    def leaves(self) -> list[Tensor]:
        """Tensors that all is made from."""
        return [node.variable for node, leaf in zip(self.nodes, self.is_leaf, strict=True) if leaf]

    @cached_property
    def names(self) -> list[str]:
        """What every operation is called: `AddmmBackward0`."""
        return [node.name().rpartition("::")[2] for node in self.nodes]

    @cached_property
    def users(self) -> list[list[tuple[int, int]]]:
        """For every operation, who reads any of its results: (operation, place among its reads)."""
        found: list[list[tuple[int, int]]] = [[] for _ in self.nodes]
        for index, reads in enumerate(self.reads):
            for place, read in enumerate(reads):
                if read is not None:
                    found[read[0]].append((index, place))
        return found

    def forwarded(self) -> Graph:
        """The same graph in which what is taken out of a stack is the thing that was put into it."""
        apart = {(index, nr): self.stacked(index, nr) for index in range(len(self)) for nr in self._taken(index)}
        known = {value: read for value, read in apart.items() if read != value}
        reads = [tuple(_followed(known, read) for read in own) for own in self.reads]
        return Graph(self.nodes, reads, self.place, self.products)

    def _taken(self, index: int) -> range:
        return range(self.results(index)) if self.names[index] in ("SelectBackward0", "UnbindBackward0") else range(0)

    def stacked(self, index: int, nr: int) -> Read:
        """What a piece of a stack was before it was stacked; the piece itself where it is of something else."""
        node, source = self.nodes[index], self.reads[index][0]
        picks = self.names[index] in ("SelectBackward0", "UnbindBackward0")
        if not picks or source is None or self.names[source[0]] != "StackBackward0":
            return index, nr
        ndim = len(self.shape(source))
        if signed(saved(node, "dim")) % ndim != signed(saved(self.nodes[source[0]], "dim")) % ndim:
            return index, nr
        at = nr if self.names[index] == "UnbindBackward0" else signed(saved(node, "index"))
        return self.reads[source[0]][at]

    def recipe(self, index: int) -> int:
        """A number that two operations share when they do the same to the same leaves: with the same numbers, too."""
        stack = [index]
        while stack:
            own = stack[-1]
            if own in self._recipes:
                stack.pop()
                continue
            left = [read[0] for read in self.reads[own] if read is not None and read[0] not in self._recipes]
            stack += left
            if not left:
                self._recipes[own] = self._recipe(own)
        return self._recipes[index]

    def _recipe(self, index: int) -> int:
        if self.is_leaf[index]:
            return index
        numbers, tensors = self._kept_by(index)
        reads = tuple(None if read is None else (self._recipes[read[0]], read[1]) for read in self.reads[index])
        alike = self._known_recipes.setdefault((self.names[index], numbers, reads), [])
        for recipe, others in alike:
            if len(tensors) == len(others) and all(map(_is_same, tensors, others)):
                return recipe
        alike.append((index, tensors))
        return index

    def _kept_by(self, index: int) -> tuple[tuple[Any, ...], list[Tensor]]:
        """Numbers and tensors that autograd keeps for an operation: sizes, factors, masks, what it made."""
        node = self.nodes[index]
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            return (index,), []  # a function of the user's own may keep anything
        kind = type(node)
        if kind not in self._kept_names:
            self._kept_names[kind] = saved_names(node)
        try:
            kept = [saved(node, name) for name in self._kept_names[kind]]
        except RuntimeError:
            return (index,), []  # written over since
        numbers = tuple(str(one) for one in kept if not isinstance(one, Tensor))
        return numbers, [one for one in kept if isinstance(one, Tensor)]

    @cached_property
    def _recipes(self) -> dict[int, int]:
        return {}

    @cached_property
    def _known_recipes(self) -> dict[Any, list[tuple[int, list[Tensor]]]]:
        return {}

    @cached_property
    def _kept_names(self) -> dict[type, tuple[str, ...]]:
        return {}

    def above(self, start: int) -> set[int]:
        """Operations that one reads, directly or not, itself included."""
        found, stack = {start}, [start]
        while stack:
            for read in self.reads[stack.pop()]:
                if read is not None and read[0] not in found:
                    found.add(read[0])
                    stack.append(read[0])
        return found

    def apply(
        self, index: int, gradients: Sequence[Tensor | None], *, skip_weights: bool = False
    ) -> Sequence[Tensor | None]:
        """Gradients of what an operation read, from those of its results.

        Args:
            index: the operation.
            gradients: of its results, None for nothing.
            skip_weights: leave out the gradient of a matrix that is multiplied with, where it is known how.

        Raises:
            UsageError: torch cannot differentiate the module, with its own words.
        """
        try:
            found = self._times_weight(index, gradients[0]) if skip_weights else None
            if found is None:
                found = self._differentiated(index, gradients)
        except RuntimeError as error:
            if "inplace operation" not in str(error):
                raise
            what = safe_text(str(error).partition("\n")[0], 160)
            raise UsageError(
                f"torch cannot differentiate the module: {what}; does its loss.backward() work?"
            ) from error
        found = found if isinstance(found, tuple) else (found,)
        # As torch's engine does: what was broadcast on the way is summed over, and a gradient has its value's type.
        forms = self.forms[index]
        if forms is None:
            forms = self.forms[index] = [None if read is None else self.form(read) for read in self.reads[index]]
        if all(g is None or own is None or (g.shape, g.dtype) == own for g, own in zip(found, forms, strict=False)):
            return tuple(found)
        return [
            g if g is None or own is None else g.sum_to_size(own[0]).to(own[1])
            for g, own in zip(found, forms, strict=False)
        ]

    def _times_weight(self, index: int, gradient: Tensor | None) -> Any:
        """For y = x W + b and y = x W, dL/dx = dL/dy W^T alone; None for any other operation."""
        name = self.names[index]
        if index not in self.products or gradient is None or self.reads[index][PRODUCTS[name]] is None:
            return None
        node, found = self.nodes[index], [None] * len(self.reads[index])
        if name == "AddmmBackward0" and (saved(node, "alpha") != 1 or saved(node, "beta") != 1):
            return None
        found[PRODUCTS[name]] = gradient @ saved(node, "mat2").mT
        return tuple(found)

    def _differentiated(self, index: int, gradients: Sequence[Tensor | None]) -> Any:
        node: Any = self.nodes[index]
        if not isinstance(node, torch.autograd.function.BackwardCFunction):
            return node(*gradients)
        given = [
            torch.zeros(meta.shape, dtype=meta.dtype, device=meta.device) if g is None else g
            for g, meta in zip(gradients, results_of(self.nodes[index]), strict=True)
        ]
        found = node.apply(*given)
        found = found if isinstance(found, tuple) else (found,)
        if len(found) == len(sources(node)):
            return found
        # It answers for arguments that are no tensors too, which the graph does not read.
        told = iter([g for g, wanted in zip(found, node.needs_input_grad, strict=False) if wanted])
        return tuple([None if one is None else next(told, None) for one, _ in sources(node)])

    def results(self, index: int) -> int:
        """How many results an operation has."""
        node = self.nodes[index]
        return 1 if self.is_leaf[index] else len(results_of(node))


def operation(name: str) -> str:
    """What an operation is called in code: `tanh` of `TanhBackward0`."""
    return name.partition("Backward")[0].lower() or name


def _is_same(a: Tensor, b: Tensor) -> bool:
    if (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device):
        return False
    return (a.data_ptr() == b.data_ptr() and a.stride() == b.stride()) or torch.equal(a, b)


def _followed(known: dict[Value, Read], read: Read) -> Read:
    while read is not None and read in known:
        read = known[read]
    return read


def signed(number: int) -> int:
    """An axis or index as autograd keeps it, which writes negative ones as large ones."""
    return number - 2**64 if number >= 2**63 else number


def _edge(tensor: Tensor) -> Any:
    return torch.autograd.graph.get_gradient_edge(tensor) if tensor.requires_grad else None


def _order(node: Any) -> tuple[int, int]:
    """Leaves first, then as they ran."""
    return (0, 0) if leaf_of(node) is not None else (1, order_of(node))

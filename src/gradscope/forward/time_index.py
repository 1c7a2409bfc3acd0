"""Which step of the input a piece of a whole is: asked of its gradient, so that any way of cutting will do.

Two pieces of the same whole are enough to tell at which step each of the others stands, since they lie evenly along
one axis. Where every piece has heard of all steps (of what a layer before has made), the place along the axis counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gradscope.forward.autograd_graph import Graph, Value
from gradscope.forward.scaled_pull import normalised, piece_of, pull_scaled
from gradscope.torch_private import saved

UNBIND, SPLITS = "UnbindBackward0", frozenset({"SplitBackward0", "UnsafeSplitBackward0"})
SINGLE = frozenset({"IndexBackward0", "IndexSelectBackward0", "GatherBackward0", "AsStridedBackward0"})
"""Operations that may take out one step, and do not say which."""


class TimeIndex:
    """Knows the pieces of the wholes of one graph."""

    def __init__(
        self, leaf: int | None, axis: int, steps: int, *, backwards: bool = False, blocks: bool = False
    ) -> None:
        """Remember where the input is.

        Args:
            leaf: the operation that stands for the input.
            axis: of time in the input.
            steps: T.
            backwards: count steps from the last.
            blocks: take pieces of several steps for steps.
        """
        self.leaf, self.axis, self.length, self.backwards, self.blocks = leaf, axis, steps, backwards, blocks
        self.steps = steps
        self._lines: dict[tuple[Value, int, int], tuple[float, float] | None] = {}
        self._sizes: set[int] = set()

    def steps_of(self, graph: Graph, index: int, level: int) -> list[int] | None:
        """The step of every result of an operation on a whole, from 1; None where it takes out no single step."""
        name, source = graph.names[index], next((r for r in graph.reads[index] if r is not None), None)
        if source is None or self.leaf is None:
            return None
        pieces = _pieces(graph, index)
        if pieces is not None:
            axis, length, starts = pieces
            size = graph.shape(source)[axis]
            if size < 2 or (length > 1 and not (self.blocks and 2 * length <= size)):
                return None
            line = self._line(graph, source, axis, length, size, level)
            return None if line is None else [self._counted(line[0] * start + line[1], length) for start in starts]
        if name in SINGLE and level == 0 and graph.results(index) == 1:
            first, last = self._heard(graph, (index, 0), torch.ones(graph.shape((index, 0))))
            return [self._counted(first, 1)] if first == last and first is not None else None
        return None

    def _counted(self, step: float, length: int) -> int:
        step = round(step)
        if self.blocks:
            step = (step - 1) // max(1, length) + 1
            self.steps = -(-self.length // max(1, length))
        return self.steps + 1 - step if self.backwards else step

    def _line(
        self, graph: Graph, source: Value, axis: int, length: int, size: int, level: int
    ) -> tuple[float, float] | None:
        """(a, b): the piece that starts at i is step a i + b."""
        key = (source, axis, length)
        if key not in self._lines:
            self._lines[key] = self._find(graph, source, axis, length, size, level)
        return self._lines[key]

    def _find(
        self, graph: Graph, source: Value, axis: int, length: int, size: int, level: int
    ) -> tuple[float, float] | None:
        low, high = size // 3, size - 1 - size // 4
        if low == high:
            low = high - 1
        (first_a, last_a), (first_b, last_b) = (
            self._heard(graph, source, _only(graph.shape(source), axis, at)) for at in (low, high)
        )
        for a, b in ((last_a, last_b), (first_a, first_b)):
            if a is not None and b is not None and a != b and (b - a) % (high - low) == 0:
                slope = (b - a) / (high - low)
                return slope, a - slope * low
        known = first_a is not None and first_b is not None
        if size == self.length and (level > 0 or not known):
            return 1.0, 1.0
        return None

    def _heard(self, graph: Graph, value: Value, seed: Tensor) -> tuple[int | None, int | None]:
        """First and last step of the input that a value has heard of."""
        assert self.leaf is not None
        variable = graph.nodes[self.leaf].variable
        drawn = torch.rand(seed.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.5
        gradient = (seed.double() * drawn).to(variable)
        above = sorted(graph.above(value[0]), reverse=True)
        pending = pull_scaled(graph, above, {value: [normalised(gradient, 0)]}, skip_weights=True)
        terms = pending.take((self.leaf, 0))
        if not terms:
            return None, None
        others = [d for d in range(variable.ndim) if d != self.axis]
        heard = torch.stack([(m != 0).sum(others) > 0 for m, _ in terms]).any(0).nonzero().flatten()
        return (int(heard[0]) + 1, int(heard[-1]) + 1) if len(heard) else (None, None)


def _pieces(graph: Graph, index: int) -> tuple[int, int, list[int]] | None:
    """(axis, length, start of every result) of an operation that cuts along one axis."""
    name, node = graph.names[index], graph.nodes[index]
    if (piece := piece_of(graph, index)) is not None:
        return piece[0], max(1, piece[2]), [piece[1]]
    if name == UNBIND:
        axis = saved(node, "dim") % (len(graph.shape((index, 0))) + 1)
        return axis, 1, list(range(graph.results(index)))
    if name in SPLITS:
        axis, length = saved(node, "dim") % len(graph.shape((index, 0))), int(saved(node, "split_size"))
        return axis, length, [length * nr for nr in range(graph.results(index))]
    return None


def _only(shape: Sequence[int], axis: int, at: int) -> Tensor:
    seed = torch.zeros(*shape)
    seed.select(axis, at).fill_(1)
    return seed

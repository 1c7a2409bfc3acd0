"""What one step gives to the weights, for every sequence by itself.

For y = x W + b the contribution of sequence b to dL/dW is x_b^T g_b, whose norm is that of x_b times that of g_b, and
the inner product of two such contributions is (x_b . x'_b)(g_b . g'_b): no matrix of the size of W is made. Any other
operation is differentiated once for each sequence, with the gradients of all others set to zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gradscope.forward.autograd_graph import PRODUCTS, Graph, Value
from gradscope.forward.scaled_pull import BAND, Pending, pull_scaled, summed
from gradscope.torch_private import saved

Axis = Callable[[Value], int | None]
LOG10_2 = math.log10(2.0)


def same_graph(one: Graph, batch: Graph) -> bool:
    """Whether the pass of a batch went through the same operations as that of one sequence."""
    return one.names == batch.names and one.reads == batch.reads


def axes(one: Graph, batch: Graph, rows: int) -> Axis:
    """Along which axis of a value its sequences lie: the one that is as many times as long in the batch."""
    known: dict[Value, int | None] = {}

    def axis(value: Value) -> int | None:
        if value not in known:
            known[value] = _axis(one.shape(value), batch.shape(value), rows)
        return known[value]

    return axis


def _axis(alone: Sequence[int], together: Sequence[int], rows: int) -> int | None:
    if len(alone) != len(together):
        return None
    apart = [axis for axis, (a, b) in enumerate(zip(alone, together, strict=True)) if a != b]
    return apart[0] if len(apart) == 1 and together[apart[0]] == rows * alone[apart[0]] else None


def by_row(m: Tensor, axis: int | None, rows: int) -> Tensor:
    """(rows, numbers); for one row, and for what all rows have in common, all numbers."""
    if rows == 1 or axis is None or axis >= m.ndim or m.shape[axis] % rows:
        return m.reshape(1, -1)
    return m.movedim(axis, 0).reshape(rows, -1)


def log10_rows(m: Tensor, e: int, axis: int | None, rows: int) -> Tensor:
    """log10 of the norm of every sequence's part of m 2^e, (rows); -inf for zero, NaN and inf kept."""
    wide = by_row(m.detach(), axis, rows).double()
    top = wide.abs().amax(-1) if wide.shape[-1] else wide.new_zeros(len(wide))
    safe = torch.where((top > 0) & top.isfinite(), top, torch.ones_like(top))
    found = (wide / safe[:, None]).square().sum(-1).sqrt().log10() + safe.log10() + e * LOG10_2
    return (found if len(found) == rows else found.expand(rows)).cpu()


def hypot(parts: Sequence[Tensor], rows: int) -> Tensor:
    """log10 of the norm of several parts side by side, each given as log10, (rows)."""
    if not parts:
        return torch.full((rows,), -math.inf, dtype=torch.float64)
    if len(parts) == 1:
        return parts[0]
    scaled = torch.stack(list(parts)) * (2 * math.log(10.0))
    return torch.logsumexp(scaled, 0) / (2 * math.log(10.0))


VIEWS = frozenset(f"{name}Backward0" for name in ("T", "Transpose", "Permute", "View", "Alias", "Clone"))
PIECES = frozenset(f"{name}Backward0" for name in ("Split", "UnsafeSplit", "SplitWithSizes", "Unbind"))
Factors = tuple[Tensor, Tensor, int]
"""x (rows, n), g (rows, m) and e: contributions x^T g 2^e."""


class Totals:
    """Running sums over steps and sequences, by what is multiplied with."""

    def __init__(self, graph: Graph) -> None:
        """Begin with nothing."""
        self.graph, self.rest = graph, Pending(graph)
        self.matrices: dict[int, tuple[Value, list[tuple[Tensor, int]]]] = {}

    def add_product(self, key: int, read: Value, x: Tensor, g: Tensor, e: int) -> None:
        """Add x^T g 2^e, in place where the exponents allow it."""
        _, sums = self.matrices.setdefault(key, (read, []))
        x, g = x.detach(), g.detach()
        for total, exponent in sums:
            if abs(exponent - e) <= BAND.get(g.dtype, 40):
                total.addmm_(x.mT, g if e == exponent else g * 2.0 ** (e - exponent))
                return
        sums.append((x.mT @ g, e))

    def add_to(self, weights: Pending) -> None:
        """Add everything, gone back to the parameters themselves, to sums by parameter."""
        for read, sums in self.matrices.values():
            for total, e in sums:
                self.rest.add(read, total.reshape(self.graph.shape(read)), e)
        for value, terms in at_leaves(self.graph, self.rest).items():
            for m, e in terms:
                weights.add(value, m, e)


class Shares:
    """One step's contributions."""

    def __init__(self, graph: Graph, axis: Axis, rows: int, totals: Totals) -> None:
        """Begin with nothing; what all sequences give together is added to `totals`."""
        self.graph, self.axis, self.rows, self.totals = graph, axis, rows, totals
        self.factors: dict[int, list[tuple[Value, Factors]]] = {}
        """By the recipe of what is multiplied with."""
        self.each = [Pending(graph) for _ in range(rows)]

    def add(self, index: int, place: int, gradients: Sequence[Tensor | None], m: Tensor | None, e: int) -> None:
        """What operation `index` gave to its read `place`, a weight: m 2^e for all sequences, None if not known yet."""
        read, g = self.graph.reads[index][place], gradients[0]
        assert read is not None
        lies = self.rows == 1 or self.axis((index, 0)) == 0
        factors = self._factors(index, place, read, g) if g is not None and lies else None
        if factors is not None:
            key = (self.graph.recipe(read[0]) << 8) + read[1]
            self.factors.setdefault(key, []).append((read, (*factors, e)))
            self.totals.add_product(key, read, *factors, e)
            return
        m = self.graph.apply(index, gradients)[place] if m is None else m
        if m is None:
            return
        self.totals.rest.add(read, m, e)
        rows = [m] if self.rows == 1 else self._one_by_one(index, place, gradients)
        for row, own in enumerate(rows):
            if own is not None:
                self.each[row].add(read, own, e)

    def _factors(self, index: int, place: int, read: Value, g: Tensor) -> tuple[Tensor, Tensor] | None:
        """X and g of a contribution x^T g, for operations of which it is known how; None for any other."""
        name, node = self.graph.names[index], self.graph.nodes[index]
        if g.ndim != 2 or len(g) != self.rows:
            return None
        if index in self.graph.products and place == PRODUCTS[name] + 1 and saved(node, "alpha", 1) == 1:
            return (saved(node, "mat1") if name == "AddmmBackward0" else saved(node, "self")), g
        if self.graph.shape(read).numel() != g.shape[1]:
            return None
        ones = g.new_ones(self.rows, 1)
        if name == "AddmmBackward0" and place == 0 and saved(node, "beta") == 1:
            return ones, g
        if name == "AddBackward0":
            return ones, g * saved(node, "alpha") if place else g
        if name == "MulBackward0":
            other = saved(node, "self") if place else saved(node, "other")
            return (ones, g * other) if other is not None and other.shape == g.shape else None
        return None

    def _one_by_one(self, index: int, place: int, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        found: list[Tensor | None] = []
        for row in range(self.rows):
            alone = [None if g is None else self._only(g, (index, nr), row) for nr, g in enumerate(gradients)]
            found.append(self.graph.apply(index, alone)[place])
        return found

    def _only(self, g: Tensor, value: Value, row: int) -> Tensor:
        axis = self.axis(value)
        if axis is None:
            return g
        width = g.shape[axis] // self.rows
        alone = torch.zeros_like(g)
        alone.narrow(axis, row * width, width).copy_(g.narrow(axis, row * width, width))
        return alone

    def log10(self) -> Tensor:
        """Norms of every sequence's contribution, all parameters together, (rows)."""
        self._resolve()
        found = [_products([factors for _, factors in group]) for group in self.factors.values()]
        if any(own.terms for own in self.each):
            rows = [
                [log10_rows(*summed(terms), None, 1) for terms in at_leaves(self.graph, p).values()] for p in self.each
            ]
            found.append(torch.cat([hypot(parts, 1) for parts in rows]))
        return hypot([part.cpu() for part in found], self.rows)

    def _resolve(self) -> None:
        """Products with several forms of one parameter are no longer apart: their matrices are made after all."""
        leaves = [(key, *self._origin(group[0][0])) for key, group in self.factors.items()]
        for key, leaf, piece in leaves:
            if leaf is not None and (piece or all(other != leaf for k, other, _ in leaves if k != key)):
                continue
            for read, (x, g, e) in self.factors.pop(key):
                for row, own in enumerate(self.each):
                    own.add(read, torch.outer(x[row], g[row]).reshape(self.graph.shape(read)), e)

    def _origin(self, value: Value) -> tuple[int | None, bool]:
        """The parameter that a matrix is a mere view of (None for another), and whether it is a piece of it."""
        index, piece = value[0], False
        while not self.graph.is_leaf[index]:
            name, reads = self.graph.names[index], self.graph.reads[index]
            if name not in VIEWS | PIECES or len(reads) != 1 or reads[0] is None:
                return None, False
            piece = piece or name in PIECES
            index = reads[0][0]
        return index, piece


def at_leaves(graph: Graph, pending: Pending) -> dict[Value, list[tuple[Tensor, int]]]:
    """Gradients of what is made of parameters, gone back to the parameters themselves."""
    above = sorted({index for value in pending.terms for index in graph.above(value[0])}, reverse=True)
    arrived = pull_scaled(graph, above, pending.terms, skip_weights=False)
    return {value: arrived.take(value) for value in {**arrived.terms, **arrived.slots}}


def _products(group: Sequence[Factors]) -> Tensor:
    """log10 of the norm of sum_i x_i^T g_i 2^e_i, by row."""
    if len(group) == 1:
        x, g, e = group[0]
        return log10_rows(x, 0, 0, len(x)) + log10_rows(g, e, 0, len(g))
    top = max(e for _, _, e in group)
    scaled = [(x.detach().double(), g.detach().double() * 2.0 ** (e - top)) for x, g, e in group]
    tops = torch.stack([g.abs().amax(-1) for _, g in scaled]).amax(0)
    safe = torch.where(tops > 0, tops, torch.ones_like(tops))[:, None]
    pairs = [(x * y).sum(-1) * (g / safe * (h / safe)).sum(-1) for x, g in scaled for y, h in scaled]
    return torch.stack(pairs).sum(0).clamp_min(0).sqrt().log10() + safe[:, 0].log10() + top * LOG10_2

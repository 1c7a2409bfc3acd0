"""Gradients along a recorded graph, last operation first, each with a power of two of its own beside it.

A gradient is a sum of terms m * 2^e whose exponents lie far apart; terms that lie close are one. So nothing underflows
or overflows on the way, however long it is, and every operation is differentiated by autograd's own formula.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gradscope.forward.autograd_graph import Graph, Value
from gradscope.torch_private import saved

Term = tuple[Tensor, int]
"""A gradient m * 2**e: m of size near 1, e an integer."""
Visit = Callable[[int, "Pull"], None]
Deposit = Callable[[int, int, Value], "Pending | None"]
Pulled = Callable[[int, Sequence[Tensor | None], int, Sequence[Tensor | None]], None]
BAND = {torch.float64: 300, torch.float32: 40}
"""Powers of two that terms may lie apart and still be one."""
NOTHING: list[Term] = []
SELECT, SLICE = "SelectBackward0", "SliceBackward0"
WRAPPED = 2**63


@dataclass(eq=False)
class Pending:
    """What has arrived so far, by value."""

    graph: Graph
    terms: dict[Value, list[Term]] = field(default_factory=dict)
    slots: dict[Value, list[tuple[int, int, int, Tensor, int]]] = field(default_factory=dict)
    """Pieces of a value by (axis, start, length; 0 for an index), so that T of them are not T whole tensors."""

    @property
    def pieces(self) -> list[tuple[int, int, int] | None]:
        """Of every operation, what piece it takes."""
        if self.graph.pieces is None:
            self.graph.pieces = [piece_of(self.graph, index) for index in range(len(self.graph))]
        return self.graph.pieces

    def add(self, value: Value, m: Tensor, e: int) -> None:
        """One more term."""
        kept = self.terms.get(value)
        if kept is None:
            self.terms[value] = [(m, e)]
            return
        for place, (other, exponent) in enumerate(kept):
            if abs(exponent - e) <= BAND.get(m.dtype, 40):
                kept[place] = _joined(other, exponent, m, e)
                return
        kept.append((m, e))

    def add_piece(self, value: Value, piece: tuple[int, int, int], m: Tensor, e: int) -> None:
        """One more term of a piece of a value."""
        self.slots.setdefault(value, []).append((*piece, m, e))

    def take(self, value: Value) -> list[Term]:
        """All that arrived at a value, which is forgotten."""
        if value in self.slots:
            for m, e in _filled(self.graph, value, self.slots.pop(value)):
                self.add(value, m, e)
        return self.terms.pop(value, NOTHING)

    def look(self, value: Value) -> list[Term]:
        """All that arrived at a value, its scale put in order; what is zero has not arrived."""
        found = [normalised(m, e) for m, e in self.take(value) if bool((m != 0).any())]
        for m, e in found:
            self.add(value, m, e)
        return self.terms.get(value, [])


class Discarded(Pending):
    """What arrives here is of no more use."""

    def add(self, value: Value, m: Tensor, e: int) -> None:
        """Forget it."""

    def add_piece(self, value: Value, piece: tuple[int, int, int], m: Tensor, e: int) -> None:
        """Forget it."""


def pull_scaled(
    graph: Graph,
    order: Iterable[int],
    seeds: Mapping[Value, list[Term]],
    visit: Visit = lambda index, pull: None,
    deposit: Deposit = lambda index, place, value: None,
    *,
    skip_weights: bool = True,
    pulled: Pulled = lambda index, gradients, e, found: None,
) -> Pending:
    """Pull gradients from `seeds` through all operations in `order`.

    Args:
        graph: of the pass.
        order: operations, every one before what it reads.
        seeds: gradients by value.
        visit: called as visit(operation, pull) before each.
        deposit: called as deposit(operation, which read, value): where what an operation gives to one of its reads
            goes, to be pulled no further; None for nowhere else.
        skip_weights: leave out gradients of matrices that are multiplied with.
        pulled: called as pulled(operation, gradients of its results, e, gradients of its reads) after each.

    Returns:
        What arrived at leaves.
    """
    pending = Pending(graph)
    for value, terms in seeds.items():
        for m, e in terms:
            pending.add(value, m, e)
    pull = Pull(pending, deposit, skip_weights, pulled)
    for index in order:
        visit(index, pull)
        pull.through(index)
    return pending


@dataclass(eq=False)
class Pull:
    """Gradients on their way through the operations of a graph."""

    pending: Pending
    deposit: Deposit
    skip_weights: bool
    pulled: Pulled = lambda index, gradients, e, found: None
    """Told of every operation that was gone through."""

    def through(self, index: int) -> None:
        """Pull what has arrived at an operation's results on to what it read; it may be asked again when more has."""
        pending, graph = self.pending, self.pending.graph
        if graph.is_leaf[index]:
            return
        taken = [pending.take((index, nr)) for nr in range(graph.results(index))]
        if not any(taken):
            return
        if (piece := self.pending.pieces[index]) is not None:
            source = graph.reads[index][0]
            assert source is not None
            to = self.deposit(index, 0, source) or pending
            for own, e in taken[0]:
                to.add_piece(source, piece, own, e)
            return
        for gradients, e in _bands(taken):
            found = graph.apply(index, gradients, skip_weights=self.skip_weights)
            self.pulled(index, gradients, e, found)
            for place, (read, m) in enumerate(zip(graph.reads[index], found, strict=False)):
                if read is not None and m is not None:
                    (self.deposit(index, place, read) or pending).add(read, m, e)


def pull_plain(
    graph: Graph, order: Iterable[int], seeds: Mapping[Value, Tensor], wanted: frozenset[Value]
) -> dict[Value, Tensor]:
    """The same without scale, for a few operations; gradients that arrive at `wanted`."""
    pending = dict(seeds)
    for index in order:
        count = graph.results(index)
        taken = [pending.get((index, nr)) for nr in range(count)]
        if all(one is None for one in taken):
            continue
        for read, m in zip(graph.reads[index], graph.apply(index, taken, skip_weights=True), strict=False):
            if read is not None and m is not None:
                pending[read] = m if read not in pending else pending[read] + m
    return {value: m for value, m in pending.items() if value in wanted}


def piece_of(graph: Graph, index: int) -> tuple[int, int, int] | None:
    """(axis, start, length) of an operation that takes a piece of what it reads; None for any other."""
    name, node = graph.names[index], graph.nodes[index]
    if name == SELECT:
        size = saved(node, "self_sym_sizes")
        axis = _axis(saved(node, "dim"), len(size))
        return axis, _signed(saved(node, "index")) % size[axis], 0
    if name == SLICE and saved(node, "step") == 1:
        size = saved(node, "self_sym_sizes")
        axis = _axis(saved(node, "dim"), len(size))
        # TorchScript leaves open ends out.
        bounds = (0 if saved(node, "start") is None else saved(node, "start"), saved(node, "end"))
        start, end = (size[axis] if at is None else _within(_signed(at), size[axis]) for at in bounds)
        return (axis, start, end - start) if end > start else None
    return None


def normalised(m: Tensor, e: int) -> Term:
    """The same value with its largest entry in [0.5, 1)."""
    top = float(m.detach().abs().max()) if m.numel() else 0.0
    if top == 0 or top != top or top == float("inf"):
        return m, e
    shift = math.frexp(top)[1]
    # Two factors, since one alone may be out of the range of the type.
    half = -shift // 2
    return m * 2.0**half * 2.0 ** (-shift - half), e + shift


def summed(terms: Sequence[Term]) -> Term:
    """Terms of one value, which add up, as one: how large each is, its exponent alone does not say."""
    held = [normalised(m, e) for m, e in terms if bool((m != 0).any())]
    if len(held) < 2:
        return held[0] if held else terms[0]
    top = max(e for _, e in held)
    return torch.stack([m * 2.0 ** max(e - top, -1074) for m, e in held]).sum(0), top


def _joined(a: Tensor, ea: int, b: Tensor, eb: int) -> Term:
    if ea == eb:
        return a + b, ea
    top = max(ea, eb)
    return a * 2.0 ** (ea - top) + b * 2.0 ** (eb - top), top


def _bands(taken: Sequence[list[Term]]) -> Iterable[tuple[list[Tensor | None], int]]:
    """Terms of several results, those of like exponents together."""
    if len(taken) == 1:
        for m, e in taken[0]:
            yield [m], e
        return
    left = sorted(((e, nr, m) for nr, terms in enumerate(taken) for m, e in terms), key=lambda one: -one[0])
    while left:
        top = left[0][0]
        band = [one for one in left if one[0] >= top - BAND.get(one[2].dtype, 40)]
        left = left[len(band) :]
        gradients: list[Tensor | None] = [None] * len(taken)
        for e, nr, m in band:
            scaled = m if e == top else m * 2.0 ** (e - top)
            before = gradients[nr]
            gradients[nr] = scaled if before is None else before + scaled
        yield gradients, top


def _filled(graph: Graph, value: Value, slots: Sequence[tuple[int, int, int, Tensor, int]]) -> Iterable[Term]:
    """Whole tensors of the pieces that arrived, those of like exponents in one."""
    left = sorted(slots, key=lambda slot: -slot[4])
    while left:
        top = left[0][4]
        band = [slot for slot in left if slot[4] >= top - BAND.get(slot[3].dtype, 40)]
        left = left[len(band) :]
        whole = band[0][3].new_zeros(graph.shape(value))
        for axis, start, length, m, e in band:
            place = whole.narrow(axis, start, length) if length else whole.select(axis, start)
            place += m * 2.0 ** (e - top)
        yield whole, top


def _signed(number: int) -> int:
    return number - 2 * WRAPPED if number >= WRAPPED else number


def _axis(number: int, ndim: int) -> int:
    return _signed(number) % ndim


def _within(at: int, size: int) -> int:
    return max(0, min(at + size if at < 0 else at, size))

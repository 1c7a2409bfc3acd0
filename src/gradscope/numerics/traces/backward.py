"""One backward pass over all sequences of a batch, along the graph of each, in log scale."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from gradscope.forward.graph import Graph
from gradscope.forward.opened import uncollected
from gradscope.forward.pull import Pending, Term, normalised, summed
from gradscope.forward.rows import hypot, log10_rows
from gradscope.forward.sweep import Swept
from gradscope.numerics.gradients.adjoint import Scaled
from gradscope.numerics.scale import add
from gradscope.numerics.scale import normalise as normalise_rows
from gradscope.numerics.traces.module import Cotangents
from gradscope.numerics.traces.sequences import Strand, Strands
from gradscope.numerics.traces.trace import Unavailable


@dataclass(frozen=True, eq=False)
class Back:
    """One backward pass of all sequences."""

    swept: tuple[tuple[Swept, ...], ...]
    """By strand and walk."""
    given: Scaled
    """dL/dx, m (T, batch, features)."""
    weights: Pending | None
    """dL/dW of the steps of the first sequence's graph, summed over the sequences."""
    totals: tuple[float, ...] | None
    """log10 ||dL/dW|| of every walk."""


def backward(strands: Strands, v: Cotangents, *, weights: bool) -> Back:
    """Sweep every strand for the cotangents `v` of the module's outputs.

    Raises:
        Unavailable: the loss reads something that mixes the sequences.
    """
    first, arrived, swept = strands.first, list[Scaled](), list[tuple[Swept, ...]]()
    sums = Pending(first.graph) if weights else None
    parts = [Pending(first.graph) for _ in first.sweeper.walks] if weights else []
    with uncollected():
        for strand in strands:
            own = Pending(strand.graph) if weights else None
            found, terms = strand.sweeper.sweep(seeds_of(v, strand), strand.leaf, weights=own)
            swept.append(tuple(found))
            arrived.append(_by_step(terms, strand, first.axis))
            if sums is not None and own is not None:
                _collect(sums, own, strand.graph)
            for part, one in zip(parts, found, strict=False):
                if one.total is not None:
                    _collect(part, one.total, strand.graph)
    given = Scaled(torch.cat([one.m for one in arrived], 1), torch.cat([one.e for one in arrived], 1))
    each = tuple(log10_of(part.terms.values()) for part in parts)
    return Back(tuple(swept), given, sums, each if weights else None)


def seeds_of(v: Cotangents, strand: Strand) -> dict[tuple[int, int], list[Term]]:
    """The cotangents of a strand's sequences, by value of its graph."""
    found: dict[tuple[int, int], list[Term]] = {}
    for place, (own, g) in enumerate(zip(strand.recording.outputs, v, strict=True)):
        value = strand.graph.value(own)
        if g is None or value is None or not bool((g != 0).any()):
            continue
        row = strand.cotangent(g, place, own.shape)
        if row is None:
            raise Unavailable(f"the loss reads an output of shape {tuple(g.shape)}, which mixes the sequences")
        found.setdefault(value, []).append(normalised(row.to(own), 0))
    return found


def _by_step(terms: Sequence[Term], strand: Strand, axis: int) -> Scaled:
    """dL/dx of a strand's sequences, m (T, sequences, features), every step of each with its own exponent."""
    given = strand.recording.given
    assert given is not None
    total = None
    for m, e in terms:
        rows = m.detach().movedim(axis, 0)
        rows = rows.reshape(*rows.shape[:2], -1)
        whole = torch.full(rows.shape[:2], e, dtype=torch.int64, device=m.device)
        own, exponents = normalise_rows(rows, whole)
        total = Scaled(own, exponents) if total is None else Scaled(*add(total.m, total.e, own, exponents))
    if total is None:
        like = torch.zeros_like(given).movedim(axis, 0)
        like = like.reshape(*like.shape[:2], -1)
        return Scaled(like, torch.zeros(like.shape[:2], dtype=torch.int64, device=like.device))
    return total


def _collect(sums: Pending, own: Pending, graph: Graph) -> None:
    """Add one strand's dL/dW to those of the others, by parameter."""
    by_leaf = {id(node.variable): place for place, node in enumerate(sums.graph.nodes) if sums.graph.is_leaf[place]}
    for value, terms in own.terms.items():
        place = by_leaf.get(id(graph.nodes[value[0]].variable))
        if place is not None:
            for m, e in terms:
                sums.add((place, 0), m.detach(), e)


def log10_of(parts: Iterable[Sequence[Term]]) -> float:
    """log10 of the norm of several values side by side, each the sum of its terms; -inf for none."""
    return float(hypot([log10_rows(*summed(terms), None, 1) for terms in parts if terms], 1))

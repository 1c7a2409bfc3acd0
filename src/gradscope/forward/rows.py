"""Sequences of a batch along some axis of a value, and norms of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gradscope.forward.graph import Graph, Value

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
    if rows == 1 or axis is None or m.shape[axis] % rows:
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

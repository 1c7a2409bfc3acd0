"""The proof of a recurrence found in a computation: what its graphs give, against the module run whole by torch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gradscope.models.fused_call import gradients
from gradscope.models.fused_recurrence import run_opened
from gradscope.models.output_shape import reals
from gradscope.models.tolerances import coarsest, nudged
from gradscope.numerics.equality import against_gradients, number, wanted
from gradscope.numerics.module_trace import Cotangents
from gradscope.numerics.sequence_passes import Back, SequencePasses, log10_of, row_of
from gradscope.records import EqualityCheck

TOGETHER = 2**19
"""Operations of all sequences up to which the module is differentiated whole, beside the graphs that are kept."""


def loop_against_torch(sequence_passes: SequencePasses, back: Back, v: Cotangents) -> EqualityCheck | None:
    """Outputs, dL/dx and dL/dW along the graphs of `sequence_passes` against torch's own; `back` holds dL/dW."""
    assert back.weights is not None
    graph, sums = sequence_passes.first.graph, back.weights.terms
    leaves = [index for index, is_leaf in enumerate(graph.is_leaf) if is_leaf and (index, 0) in sums]
    theirs = _by_torch(sequence_passes, v, [graph.nodes[index].variable for index in leaves])
    return against_gradients(
        _outputs(sequence_passes),
        (number(back.given), theirs[0]),
        [(log10_of([sums[index, 0]]), g) for index, g in zip(leaves, theirs[1:], strict=True)],
        type(sequence_passes.model.module).__name__,
        sequence_passes.first.types,
        None if sequence_passes.before_chaos is None else lambda: _nudged(sequence_passes),
    )


def _by_torch(sequence_passes: SequencePasses, v: Cotangents, weights: list[Tensor]) -> list[Tensor]:
    """dL/dx, (T, batch, features), and dL/dW by torch: of the batch whole, or if long sequence by sequence."""
    whole = len(sequence_passes.first.graph) * sequence_passes.count <= TOGETHER
    rows = [slice(None)] if whole else [slice(b, b + 1) for b in range(sequence_passes.count)]
    inputs, sums = [], [torch.zeros_like(weight) for weight in weights]
    for row in rows:
        with wanted(weights), torch.enable_grad():
            seen = run_opened(sequence_passes.model, sequence_passes.x[row], search=False)
            ys = reals(seen.raw)
            asked_for = [
                _row(g, y, row, sequence_passes, place) for place, (g, y) in enumerate(zip(v, ys, strict=True))
            ]
            pairs = [(y, g) for y, g in zip(ys, asked_for, strict=True) if g is not None and y.requires_grad]
            assert seen.given is not None
            asked = (seen.given, *weights)
            found = gradients([y for y, _ in pairs], asked, [g for _, g in pairs]) if pairs else [None] * len(asked)
        own = torch.zeros_like(seen.given) if found[0] is None else found[0]
        by_time = own.movedim(sequence_passes.first.axis, 0)
        inputs.append(by_time.reshape(*by_time.shape[:2], -1))
        sums = [total if g is None else total + g for total, g in zip(sums, found[1:], strict=True)]
    return [torch.cat(inputs, 1), *sums]


def _row(g: Tensor | None, y: Tensor, row: slice, sequence_passes: SequencePasses, place: int) -> Tensor | None:
    """The part of the cotangent of output `place` that belongs to the sequences of a run."""
    if g is None or row.start is None:
        return g
    if not y.ndim and (share := sequence_passes.shares[place]) is not None:
        return g * share
    return row_of(g, y.shape, row.start, sequence_passes.count)


def _nudged(sequence_passes: SequencePasses) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Every sequence's own outputs by step, its part of the batch's, and its own when the input moves by a rounding."""
    kind = coarsest((sequence_passes.x.dtype, *sequence_passes.first.types))
    for sequence_pass in sequence_passes:
        moved = reals(sequence_passes.plain(nudged(sequence_pass.taken(sequence_passes.x), kind)))
        for whole, own, other in zip(
            reals(sequence_passes.seen.raw), sequence_pass.recording.outputs, moved, strict=True
        ):
            # A number for all sequences has no part of one: it tells how far rounding grows, and nothing more.
            row = sequence_pass.part(whole, own.shape) if own.ndim else None
            a, b, c = (_by_step(value, sequence_passes) for value in (own, own if row is None else row, other))
            yield 1, a, b, c


def _by_step(value: Tensor, sequence_passes: SequencePasses) -> Tensor:
    """(T, ...), where there is one for every step; else as that of a single one."""
    axis, steps = sequence_passes.first.axis, sequence_passes.x.shape[1]
    return value.movedim(axis, 0) if value.ndim > axis and value.shape[axis] == steps else value.reshape(1, -1)


def _outputs(sequence_passes: SequencePasses) -> list[tuple[Tensor, Tensor]]:
    """Every sequence's own outputs beside its part of the batch's."""
    found = []
    for sequence_pass in sequence_passes:
        for whole, own in zip(reals(sequence_passes.seen.raw), sequence_pass.recording.outputs, strict=True):
            if (row := sequence_pass.part(whole, own.shape)) is not None:
                found.append((own, row))
    return found

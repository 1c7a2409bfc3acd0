"""Gradients that pass through ordinary operations without losing their scale.

Autograd works in one range of numbers; the gradient of a long recurrence does not fit in it. It is cut into bands of
steps of similar size, each is brought to order one and pulled through by itself, and the results are added up with
their scale in an exponent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gradscope.forward.graph import Graph
from gradscope.models.capture.gradients import gradients
from gradscope.numerics.gradients.adjoint import Scaled
from gradscope.numerics.scale import power_of_two

BAND = {torch.float64: 600, torch.float32: 60, torch.bfloat16: 60, torch.float16: 6}
"""Powers of two between the largest and the smallest step of a band: what is left of the range is for the way."""


def pull_through(
    outputs: Sequence[Tensor], cotangents: Sequence[Scaled], inputs: Sequence[Tensor]
) -> Iterator[tuple[tuple[Tensor | None, ...], int]]:
    """Gradients of sum <cotangent, output> with respect to `inputs`, as parts g * 2^e that add up.

    Args:
        outputs: (T, batch, features) each, joined to a graph.
        cotangents: one for each output.
        inputs: what to differentiate with respect to.
    """
    joined = [(y, v) for y, v in zip(outputs, cotangents, strict=True) if y.requires_grad and y.numel()]
    if not joined or not inputs:
        return
    types = {*Graph.of([y for y, _ in joined]).types, *(v.m.dtype for _, v in joined)}
    width = min(BAND[kind] for kind in types if kind in BAND)
    left = [(v.m != 0).any(-1) for _, v in joined]
    while True:
        tops = [int(v.e[seen].max()) for (_, v), seen in zip(joined, left, strict=True) if bool(seen.any())]
        if not tops:
            return
        top, pulled = max(tops), []
        for place, (_, v) in enumerate(joined):
            band = left[place] & (v.e > top - width)
            left[place] = left[place] & ~band
            factor = power_of_two((v.e - top).clamp_min(-1000), v.m.dtype)
            scale = torch.where(band, factor, torch.zeros_like(factor))
            pulled.append(v.m * scale[..., None])
        yield gradients([y for y, _ in joined], inputs, pulled), top

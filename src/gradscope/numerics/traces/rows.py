"""One sequence's own part of what a module returned for a batch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from gradscope.models.agreement import tolerance
from gradscope.models.output_shape import reals


def row_of(whole: Tensor, shape: Sequence[int], b: int, batch: int) -> Tensor | None:
    """Sequence b of a tensor of the batch, in the shape that it has by itself; None where it has no such part."""
    if batch == 1:
        return whole if whole.shape == torch.Size(shape) else None
    if whole.ndim != len(shape):
        return None
    apart = [axis for axis in range(whole.ndim) if whole.shape[axis] != shape[axis]]
    if len(apart) != 1 or whole.shape[apart[0]] != batch * shape[apart[0]]:
        return None
    width = shape[apart[0]]
    return whole.narrow(apart[0], b * width, width)


def rows_agree(whole: Any, own: Any, b: int, batch: int, types: Collection[torch.dtype] = ()) -> bool:
    """Whether a sequence by itself returned what it did among the others, within rounding; `types` took part inside."""
    pairs = list(zip(reals(whole), reals(own), strict=False))
    if len(reals(whole)) != len(reals(own)) or not pairs:
        return False
    for one, alone in pairs:
        row = row_of(one, alone.shape, b, batch)
        if row is None:
            continue
        a, c = row.detach().double(), alone.detach().double()
        size = float(a.nan_to_num(0, 0, 0).abs().max()) if a.numel() else 0.0
        near = tolerance((alone.dtype, *types)).outputs
        if not torch.allclose(a, c, near, near * size, equal_nan=True):
            return False
    return True

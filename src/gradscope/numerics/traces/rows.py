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


def rows_agree(
    whole: Any, own: Any, b: int, batch: int, types: Collection[torch.dtype] = (), leaves: Sequence[Tensor] = ()
) -> bool:
    """Whether a sequence by itself returned what it did among the others, within rounding.

    Args:
        whole: what the module returned for the batch.
        own: what it returned for the sequence alone.
        b: the place of that sequence.
        batch: how many there are.
        types: that took part inside.
        leaves: what `own` was made of; a sum of terms that cancel is rounded as they are, and not as it is.
    """
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
        if torch.allclose(a, c, near, near * size, equal_nan=True):
            continue
        if not torch.allclose(a, c, near, near * _terms(alone, leaves), equal_nan=True):
            return False
    return True


def _terms(made: Tensor, leaves: Sequence[Tensor]) -> float:
    """Size of the terms that a tensor is the sum of: sum |d(sum y)/dp p| over all numbers p of the leaves."""
    if not leaves or not made.requires_grad:
        return 0.0
    found = torch.autograd.grad(made.sum(), leaves, retain_graph=True, allow_unused=True)
    terms = [(g * leaf.detach()).abs().sum() for g, leaf in zip(found, leaves, strict=True) if g is not None]
    return float(torch.stack([term.double() for term in terms]).nan_to_num(0, 0, 0).sum()) if terms else 0.0

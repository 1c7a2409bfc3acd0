"""Euclidean norms of many rows, in float64 whatever the type of the numbers."""

from __future__ import annotations

import torch
from torch import Tensor

PIECE = 2**19
"""Numbers widened at a time: more would leave the cache, and large fresh memory costs more than the arithmetic."""


def row_norms(values: Tensor) -> Tensor:
    """Norm over the last dimension, float64; squares of narrower types neither under- nor overflow there."""
    if values.dtype == torch.float64 or values.device.type != "cpu" or values.numel() <= PIECE:
        whole: Tensor = torch.linalg.vector_norm(values, dim=-1, dtype=torch.float64)
        return whole
    rows = values.flatten(0, -2)
    pieces = rows.split(max(1, PIECE // max(1, rows.shape[-1])))
    found = torch.cat([torch.linalg.vector_norm(piece.double(), dim=-1) for piece in pieces])
    return found.reshape(values.shape[:-1])

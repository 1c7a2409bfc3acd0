"""Weight share: each step's part in the sum of the norms of the per-step contributions to dL/dW."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradscope.metrics.track import Track, Tracks, numbers, over_sequences
from gradscope.numerics.analysis import Analysis, Unavailable
from gradscope.numerics.scale import log10_sum


def shares(logs: Tensor) -> Tensor:
    """log10 of every step's share, (T, batch), from log10 norms of the contributions."""
    total = log10_sum(logs, 0)
    return torch.where(total == -math.inf, total, logs - total)


def measure(analysis: Analysis) -> Tracks:
    """Shares of steps 1 .. T, and their log10, which does not underflow."""
    found = [shares(adjoint.weight).T for adjoint in analysis.adjoints if adjoint.weight is not None]
    if not found:
        raise Unavailable("the cell has no parameters")
    logs = over_sequences(torch.cat(found))
    linear = torch.pow(10.0, torch.tensor(logs.values, dtype=torch.float64))
    return {"weight_share": Track(numbers(linear)), "log10_weight_share": logs}

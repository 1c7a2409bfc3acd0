"""Gates over time: the mean of every gate over units, sequences and layers."""

from __future__ import annotations

import torch

from gradscope.metrics.track import Track, Tracks, numbers
from gradscope.models.cell import Linearization
from gradscope.numerics.analysis import Analysis


def measure(analysis: Analysis) -> Tracks:
    """`gate.<name>.mean`, steps 1 .. T, of the first run; nothing for a model without gates."""
    return means(list(analysis.trajectories[0].layers)) if analysis.recurrent else {}


def means(layers: list[Linearization]) -> Tracks:
    """Mean of every gate that the layers have."""
    names = [name for name in layers[0].values if name.startswith("gate.")]
    return {
        f"{name}.mean": Track(
            numbers(torch.stack([layer.values[name].double().mean((1, 2)) for layer in layers]).mean(0))
        )
        for name in names
    }

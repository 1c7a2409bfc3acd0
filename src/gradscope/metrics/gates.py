"""Gates over time: the mean of every gate over units, sequences and layers."""

from __future__ import annotations

import torch

from gradscope.metrics.track import Track, Tracks, numbers
from gradscope.models.cell import Layer
from gradscope.numerics.analysis import Analysis


def measure(analysis: Analysis) -> Tracks:
    """`gate.<name>.mean`, steps 1 .. T, of the first run; nothing for a model without gates."""
    return means([layer for _, layer in analysis.trace.layers])


def means(layers: list[Layer]) -> Tracks:
    """Mean of every gate that the layers have, over those that have it."""
    names = dict.fromkeys(name for layer in layers for name in layer.values if name.startswith("gate."))
    return {
        f"{name}.mean": Track(
            numbers(torch.stack([v.values[name].double().mean((1, 2)) for v in layers if name in v.values]).mean(0))
        )
        for name in names
    }

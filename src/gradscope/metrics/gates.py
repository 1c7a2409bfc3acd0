"""Gates over time: the mean of every gate over units, sequences and layers; of a state that was found, its parts."""

from __future__ import annotations

import torch

from gradscope.metrics.track import Track, Tracks, numbers
from gradscope.models.cell import Layer
from gradscope.numerics.analysis import Analysis


def measure(analysis: Analysis) -> Tracks:
    """`gate.<name>.mean`, and `state.<name>.rms` of a state found in a module; steps 1 .. T, of the first run."""
    return means([layer for _, layer in analysis.trace.layers])


def means(layers: list[Layer]) -> Tracks:
    """Mean of every gate that the layers have, over those that have it."""
    names = dict.fromkeys(name for layer in layers for name in layer.values if name.startswith("gate."))
    return {
        f"{name}.mean": Track(
            numbers(torch.stack([v.values[name].double().mean((1, 2)) for v in layers if name in v.values]).mean(0))
        )
        for name in names
    } | _states(layers)


def _states(layers: list[Layer]) -> Tracks:
    """Root mean square of every named part of a state, over units and sequences; NaN where a step has no value."""
    found: Tracks = {}
    for layer in layers:
        for name, value in layer.values.items():
            if name.startswith("state."):
                found.setdefault(f"{name}.rms", Track(numbers(value.double().square().mean((1, 2)).sqrt())))
    return found

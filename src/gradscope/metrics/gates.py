"""Gates over time: the mean of every gate over units, sequences and layers; of a state that was found, its parts."""

from __future__ import annotations

import torch
from torch import Tensor

from gradscope.metrics.track import Track, Tracks, numbers
from gradscope.models.capture.recurrence import reordered
from gradscope.models.cell import Layer
from gradscope.numerics.analysis import Analysis


def measure(analysis: Analysis) -> Tracks:
    """`gate.<name>.mean`, and `state.<name>.rms` of a state found in a module; steps 1 .. T, of the first run.

    Layers that take other steps than the sequence has (a part of it, or the batch) have no place on this axis.
    """
    pairs = zip((layer for _, layer in analysis.trace.layers), analysis.trace.orders, strict=True)
    return means([(layer, order) for layer, order in pairs if layer.states.shape[0] == analysis.length + 1])


def means(layers: list[tuple[Layer, Tensor | None]]) -> Tracks:
    """Mean of every gate that the layers have, over those that have it.

    Args:
        layers: of one length, each with the own step (T, batch) at which it reads every input; None for the same.
    """
    found: dict[str, list[Tensor]] = {}
    for layer, order in layers:
        for name, value in layer.values.items():
            if name.startswith("gate."):
                found.setdefault(name, []).append(reordered(value, order).double().mean((1, 2)))
    gates = {f"{name}.mean": Track(numbers(torch.stack(values).mean(0))) for name, values in found.items()}
    return gates | _states([layer for layer, _ in layers])


def _states(layers: list[Layer]) -> Tracks:
    """Root mean square of every named part of a state, over units and sequences; NaN where a step has no value."""
    found: Tracks = {}
    for layer in layers:
        for name, value in layer.values.items():
            if name.startswith("state."):
                found.setdefault(f"{name}.rms", Track(numbers(value.double().square().mean((1, 2)).sqrt())))
    return found

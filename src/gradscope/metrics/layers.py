"""Each layer of a stack by itself: what reaches it, and its part of the weight gradient."""

from __future__ import annotations

import torch

from gradscope.metrics.gates import means
from gradscope.metrics.track import Tracks, numbers, over_sequences
from gradscope.metrics.weight_share import shares
from gradscope.numerics.analysis import Analysis
from gradscope.records import Layer, Number, Series


def measure(analysis: Analysis) -> tuple[Layer, ...]:
    """One record a layer, bottom first; none for a single layer, which the model's own series describe."""
    layers = analysis.trace.layers
    if len(layers) < 2 or analysis.non_finite is not None:
        return ()
    swept = [trace.layer_adjoints(v) for trace, v in zip(analysis.traces, analysis.cotangents, strict=True)]
    found = []
    for index, (name, layer) in enumerate(layers):
        adjoints = [of_run[index] for of_run in swept]
        tracks: Tracks = {
            "log10_grad_state": over_sequences(torch.cat([a.state.T for a in adjoints])),
            "log10_grad_input": over_sequences(torch.cat([a.input.T for a in adjoints])),
            **means([layer]),
        }
        weights = [shares(a.weight).T for a in adjoints if a.weight is not None]
        if weights:
            logs = over_sequences(torch.cat(weights))
            linear = numbers(torch.pow(10.0, torch.tensor(logs.values, dtype=torch.float64)))
            values = {"weight_share": linear, "log10_weight_share": logs.values}
        else:
            values = {}
        values |= {key: track.values for key, track in tracks.items()}
        summary: dict[str, Number] = {"log10_grad_weight": adjoints[0].weight_gradient}
        found.append(Layer(name, Series(tuple(range(analysis.length + 1)), None, values), summary))
    return tuple(found)

"""Saturation: the share of (unit, step) pairs whose activation or gate sits at an end of its range."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gradscope.numerics.analysis import Analysis

EDGE = 0.99


def measure(analysis: Analysis) -> dict[str, float]:
    """By name: `activation` (|tanh| > 0.99), `activation.dead` (relu units that are zero at every step), and for every
    gate `gate.<name>.open` (> 0.99) and `gate.<name>.closed` (< 0.01). All layers and sequences of the first run.
    """  # noqa: D205
    analysis.require_finite()
    found: dict[str, list[Tensor]] = {}
    for _, layer in analysis.trace.layers:
        for name, value in layer.values.items():
            for kind, flags in _flags(name, value):
                found.setdefault(kind, []).append(flags.double().flatten())
    return {kind: float(torch.cat(flags).mean()) for kind, flags in found.items()}


def _flags(name: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    if name == "activation.tanh":
        yield "activation", value.abs() > EDGE
    elif name == "activation.relu":
        yield "activation.dead", (value == 0).flatten(0, 1).all(0)
    elif name.startswith("gate."):
        yield f"{name}.open", value > EDGE
        yield f"{name}.closed", value < 1 - EDGE

"""What became of the weights between two points: which tensors moved most, and where the biases of gates went."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from gradscope.trajectory import Change

MOST = 3
"""Tensors that are named, the ones that moved most first."""
GATES = {3: ("reset", "update", "new"), 4: ("input", "forget", "cell", "output")}
"""Gates in the order of torch.nn, by how many there are."""
TELLING = ("forget", "update")
SHIFTED = 0.2
"""A gate's bias that moved less is not worth a word."""
_BIAS = re.compile(r"(.*?)bias_ih_l(\d+)((?:_reverse)?)$")


def plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the floating tensors with more than one number, in float32 on the CPU."""
    return {
        name: tensor.detach().to("cpu", torch.float32, copy=True)
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and tensor.layout == torch.strided and tensor.numel() > 1
    }


def changes(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> tuple[Change, ...]:
    """The tensors that moved most relative to their norm, then the gate biases that moved at all."""
    moved = []
    for name, new in after.items():
        old = before.get(name)
        if old is None or old.shape != new.shape:
            continue
        norm = float(old.double().norm())
        step = float((new.double() - old.double()).norm())
        if step != 0:
            moved.append(Change(name, "norm", norm, float(new.double().norm()), step / norm if norm > 0 else None))
    # What was zero has no norm to be measured by, and comes last; NaN comes first.
    moved.sort(key=lambda change: 0.0 if change.moved is None else -change.moved if change.moved > 0 else -math.inf)
    return (*moved[:MOST], *_gates(before, after))


def _gates(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[Change]:
    """Mean bias of forget and update gates of torch.nn's layers, where it moved."""
    found = []
    for name in after:
        match = _BIAS.match(name)
        if match is None or name not in before:
            continue
        other = f"{match[1]}bias_hh_l{match[2]}{match[3]}"
        hidden = _hidden(after, f"{match[1]}weight_hh_l{match[2]}{match[3]}")
        names = GATES.get(len(after[name]) // hidden) if hidden else None
        if names is None or other not in after or other not in before:
            continue
        for place, gate in enumerate(names):
            if gate in TELLING:
                rows = slice(place * hidden, (place + 1) * hidden)
                old, new = (float((held[name][rows] + held[other][rows]).mean()) for held in (before, after))
                if abs(new - old) >= SHIFTED:
                    layer = f"{match[1]}l{match[2]}{match[3]}"
                    found.append(Change(f"{gate} bias of {layer}", "mean", old, new))
    return found


def _hidden(tensors: Mapping[str, Tensor], name: str) -> int:
    return tensors[name].shape[1] if name in tensors and tensors[name].ndim == 2 else 0

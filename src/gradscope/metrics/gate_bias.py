"""Mean bias of the gate that keeps the old state, by layer."""

from __future__ import annotations

import re

from torch import nn

from gradscope.chain import ArrayChain
from gradscope.models.direct import Direct
from gradscope.numerics.analysis import Analysis

_BIAS = re.compile(r"(.*?)bias_ih(_l\d+)?")


def measure(analysis: Analysis) -> tuple[float, ...]:
    """Mean of b_ih + b_hh of the forget gate (LSTM) or update gate (GRU) of every one-way layer, bottom first."""
    if isinstance(analysis.model, ArrayChain):
        return ()
    weights, found = analysis.model.parameters(), []
    layers = _of_torch(analysis.model) if isinstance(analysis.model, Direct) else None
    for name in weights:
        known = _BIAS.fullmatch(name)
        if known is None or (layers is not None and known.group(1).rstrip(".") not in layers):
            continue
        before, after = known.group(1), known.group(2) or ""
        recurrent, other = (weights.get(f"{before}{part}{after}") for part in ("weight_hh", "bias_hh"))
        if recurrent is None or other is None:
            continue
        if recurrent.shape[0] not in (3 * recurrent.shape[1], 4 * recurrent.shape[1]):
            continue
        hidden = recurrent.shape[1]
        found.append(float((weights[name] + other)[hidden : 2 * hidden].detach().mean()))
    return tuple(found)


def _of_torch(model: Direct) -> set[str]:
    """Names of the layers whose gates lie in the order of torch.nn; those of other cells lie as their authors like."""
    kinds = (nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell)
    return {name for name, part in model.module.named_modules() if isinstance(part, kinds)}

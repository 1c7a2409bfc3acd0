"""Mean bias of the gate that keeps the old state, by layer."""

from __future__ import annotations

import re

from gradscope.chain import ArrayChain
from gradscope.numerics.analysis import Analysis

_BIAS = re.compile(r"(.*?)bias_ih(_l\d+)?")


def measure(analysis: Analysis) -> tuple[float, ...]:
    """Mean of b_ih + b_hh of the forget gate (LSTM) or update gate (GRU) of every one-way layer, bottom first."""
    if isinstance(analysis.model, ArrayChain):
        return ()
    weights, found = analysis.model.parameters(), []
    for name in weights:
        known = _BIAS.fullmatch(name)
        if known is None:
            continue
        before, after = known.group(1), known.group(2) or ""
        recurrent, other = (weights.get(f"{before}{part}{after}") for part in ("weight_hh", "bias_hh"))
        if (
            recurrent is None
            or other is None
            or recurrent.shape[0] not in (3 * recurrent.shape[1], 4 * recurrent.shape[1])
        ):
            continue
        hidden = recurrent.shape[1]
        found.append(float((weights[name] + other)[hidden : 2 * hidden].detach().mean()))
    return tuple(found)

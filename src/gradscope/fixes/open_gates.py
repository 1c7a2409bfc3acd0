"""Gate biases solved for a half-life of the needed lag: sigmoid(b)^K = 1/2 (Gers et al. 2000)."""

from __future__ import annotations

import math

from gradscope.fixes.layers import Layer, changed, each_layer
from gradscope.fixes.remedy import Patient, Remedy, Treated


def solved_bias(lag: int) -> float:
    """B = logit(2^(-1/K)) = -ln(2^(1/K) - 1), at which a gate keeps one half over K steps."""
    return -math.log(math.expm1(math.log(2) / max(lag, 1)))


def apply(patient: Patient) -> Treated | None:
    """The gate that keeps the old state: forget of an LSTM, update of a GRU."""
    bias = solved_bias(patient.lag)

    def change(layer: Layer) -> bool:
        if layer.kind == "rnn" or not layer.has_bias:
            return False
        layer.set_bias(1, bias)
        return True

    found = changed(patient.model, change)
    if found is None:
        return None
    # Forget is the second gate of i, f, g, o, update the second of r, z, n.
    code = each_layer(
        f"""
weights["bias_ih"][H : 2 * H] = {bias!r}
weights["bias_hh"][H : 2 * H] = 0.0
"""
    )
    return Treated(f"gate bias {bias:.2g} (half-life {patient.lag})", found[0], code, found[1])


REMEDY = Remedy("open gates", "the gate that keeps the old state holds half of it over the needed lag", apply)

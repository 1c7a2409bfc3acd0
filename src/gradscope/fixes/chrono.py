"""Chrono initialisation (Tallec & Ollivier 2018): forget biases ln U[1, K - 1], input biases their opposite."""

from __future__ import annotations

import torch

from gradscope.fixes.layers import Layer, changed, each_layer
from gradscope.fixes.remedy import Patient, Remedy, Treated


def apply(patient: Patient) -> Treated | None:
    """Time scales from one step to the needed lag, a unit each."""
    longest, stream = max(patient.lag - 1, 2), patient.stream("chrono")

    def change(layer: Layer) -> bool:
        if layer.kind == "rnn" or not layer.has_bias:
            return False
        drawn = torch.rand(layer.hidden, generator=stream, dtype=torch.float64)
        bias = (1 + drawn * (longest - 1)).log().to(layer.weights["bias_ih"])
        layer.set_bias(1, bias)
        if layer.kind == "lstm":
            layer.set_bias(0, -bias)
        return True

    found = changed(patient.model, change)
    if found is None:
        return None
    code = each_layer(
        f"""
bias = torch.empty(H).uniform_(1, {longest}).log()
weights["bias_ih"][H : 2 * H], weights["bias_hh"][H : 2 * H] = bias, 0.0
if isinstance(rnn, torch.nn.LSTM):
    weights["bias_ih"][:H], weights["bias_hh"][:H] = -bias, 0.0
"""
    )
    return Treated(f"gate biases ln U[1, {longest}]", found[0], code, found[1])


REMEDY = Remedy("chrono", "units remember over all times from one step to the needed lag", apply)

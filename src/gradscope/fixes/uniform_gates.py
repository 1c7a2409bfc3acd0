"""Uniform gate initialisation (Gu et al. 2020): forget gates uniform in (0, 1), input gates their complement."""

from __future__ import annotations

import torch

from gradscope.fixes.layers import Layer, changed, each_layer
from gradscope.fixes.remedy import Patient, Remedy, Treated


def apply(patient: Patient) -> Treated | None:
    """b_f = logit(u) with u uniform in [1/H, 1 - 1/H], b_i = -b_f."""
    stream = patient.stream("uniform gates")

    def change(layer: Layer) -> bool:
        if layer.kind == "rnn" or not layer.has_bias or layer.hidden < 3:
            return False
        edge = 1 / layer.hidden
        drawn = edge + (1 - 2 * edge) * torch.rand(layer.hidden, generator=stream, dtype=torch.float64)
        bias = drawn.logit().to(layer.weights["bias_ih"])
        layer.set_bias(1, bias)
        if layer.kind == "lstm":
            layer.set_bias(0, -bias)
        return True

    found = changed(patient.model, change)
    if found is None:
        return None
    code = each_layer(
        """
bias = torch.empty(H).uniform_(1 / H, 1 - 1 / H).logit()
weights["bias_ih"][H : 2 * H], weights["bias_hh"][H : 2 * H] = bias, 0.0
if isinstance(rnn, torch.nn.LSTM):
    weights["bias_ih"][:H], weights["bias_hh"][:H] = -bias, 0.0
"""
    )
    return Treated("gates uniform in (0, 1)", found[0], code, found[1])


REMEDY = Remedy("uniform gates", "time scales of all lengths, whatever the task turns out to need", apply)

"""The identity as recurrent matrix (Le, Jaitly & Hinton 2015): units hold what they have until the input says more."""

from __future__ import annotations

import torch

from gradscope.fixes.layer import Layer
from gradscope.fixes.layers import changed
from gradscope.fixes.remedy import Patient, Remedy, Treated


def apply(patient: Patient) -> Treated | None:
    """W_hh = I and no biases, in layers without gates."""

    def change(layer: Layer) -> bool:
        if layer.kind != "rnn":
            return False
        layer.weights["weight_hh"].copy_(torch.eye(layer.hidden))
        for name in ("bias_ih", "bias_hh"):
            if name in layer.weights:
                layer.weights[name].zero_()
        return True

    found = changed(patient.model, change)
    if found is None:
        return None
    code = found.code(
        """
if isinstance(rnn, (torch.nn.RNN, torch.nn.RNNCell)):
    weights["weight_hh"].copy_(torch.eye(H))
    for name in ("bias_ih", "bias_hh"):
        if name in weights:
            weights[name].zero_()
"""
    )
    return Treated("W_hh = I, no bias", found.model, code, found.weights)


REMEDY = Remedy("identity", "each unit keeps its own value", apply)

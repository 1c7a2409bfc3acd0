"""What remedies share that set the bias of the gate that keeps the old state: forget of an LSTM, update of a GRU."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from gradscope.fixes.layer import Layer
from gradscope.fixes.layers import changed
from gradscope.fixes.remedy import Patient, Treated

# Forget is the second gate of i, f, g, o, update the second of r, z, n.
LINES = """
if "bias_ih" in weights and not isinstance(rnn, (torch.nn.RNN, torch.nn.RNNCell)):
    weights["bias_ih"][H : 2 * H], weights["bias_hh"][H : 2 * H] = bias, 0.0
"""
COMPLEMENT = """
if "bias_ih" in weights and isinstance(rnn, (torch.nn.LSTM, torch.nn.LSTMCell)):
    weights["bias_ih"][:H], weights["bias_hh"][:H] = -bias, 0.0
"""


def biased(
    patient: Patient, change: str, bias: Callable[[int], Tensor | float], code: str, *, complement: bool
) -> Treated | None:
    """The model with `bias(hidden)` in that gate of each gated layer that has biases; None where there is none.

    Args:
        patient: the model.
        change: what is done, in a few words.
        bias: b_ih + b_hh of each unit, (hidden,), or one for all.
        code: the line of PyTorch that sets `bias` for `H` units.
        complement: whether the input gate of an LSTM gets the opposite.
    """

    def set_gates(layer: Layer) -> bool:
        if not layer.is_gated:
            return False
        values = bias(layer.hidden)
        layer.keep(values, code)
        if complement and layer.kind == "lstm":
            layer.set_bias(0, -values)
        return True

    found = changed(patient.model, set_gates, patient.x)
    if found is None:
        return None
    body = code + LINES + (COMPLEMENT.lstrip("\n") if complement else "")
    return Treated(change, found.model, found.code(body), found.weights)

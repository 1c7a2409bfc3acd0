"""Remedies that set initial weights: biases of gates, and recurrent matrices that keep norms."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gradscope.fixes.layer_edit import changed
from gradscope.fixes.remedy import Layer, Remedy, RemedyInput, RemedyResult
from gradscope.rules.advice import half_life_bias

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
    remedy_input: RemedyInput, change: str, bias: Callable[[int], Tensor | float], code: str, *, complement: bool
) -> RemedyResult | None:
    """The model with `bias(hidden)` in that gate of each gated layer that has biases; None where there is none.

    Args:
        remedy_input: the model.
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

    found = changed(remedy_input.model, set_gates, remedy_input.x)
    if found is None:
        return None
    body = code + LINES + (COMPLEMENT.lstrip("\n") if complement else "")
    return RemedyResult(change, found.model, found.code(body), found.weights)


def open_gates(remedy_input: RemedyInput) -> RemedyResult | None:
    """Gate biases solved for a half-life of the needed lag: sigmoid(b)^K = 1/2 (Gers et al. 2000).

    One bias for all units.
    """
    bias = half_life_bias(remedy_input.own_lag)
    change = f"gate bias {bias:.2g} (half-life {remedy_input.own_lag})"
    return biased(remedy_input, change, lambda hidden: bias, f"bias = {bias!r}", complement=False)


OPEN_GATES = Remedy("open gates", "the gate that keeps the old state holds half of it over the needed lag", open_gates)


def chrono(remedy_input: RemedyInput) -> RemedyResult | None:
    """Chrono initialisation (Tallec & Ollivier 2018): forget biases ln U[1, K - 1], input biases their opposite.

    Time scales from one step to the needed lag, a unit each.
    """
    longest, stream = max(remedy_input.own_lag - 1, 2), remedy_input.stream("chrono")

    def drawn(hidden: int) -> Tensor:
        return (1 + torch.rand(hidden, generator=stream, dtype=torch.float64) * (longest - 1)).log()

    code = f"bias = torch.empty(H).uniform_(1, {longest}).log()"
    return biased(remedy_input, f"gate biases ln U[1, {longest}]", drawn, code, complement=True)


CHRONO = Remedy("chrono", "units remember over all times from one step to the needed lag", chrono)


def uniform_gates(remedy_input: RemedyInput) -> RemedyResult | None:
    """Uniform gate initialisation (Gu et al. 2020): forget gates uniform in (0, 1), input gates their complement.

    b_f = logit(u) with u uniform in [1/H, 1 - 1/H], b_i = -b_f.
    """
    stream = remedy_input.stream("uniform gates")

    def drawn(hidden: int) -> Tensor:
        # One or two units have no such interval: their gates are half open.
        edge = min(1 / hidden, 0.5)
        return (edge + (1 - 2 * edge) * torch.rand(hidden, generator=stream, dtype=torch.float64)).logit()

    code = "edge = min(1 / H, 0.5)\nbias = torch.empty(H).uniform_(edge, 1 - edge).logit()"
    return biased(remedy_input, "gates uniform in (0, 1)", drawn, code, complement=True)


UNIFORM_GATES = Remedy(
    "uniform gates", "time scales of all lengths, whatever the task turns out to need", uniform_gates
)


def orthogonal_matrices(remedy_input: RemedyInput) -> RemedyResult | None:
    """Orthogonal recurrent matrices (Saxe et al. 2014; Le et al. 2015 for the identity): they keep every norm.

    Each (H, H) block of W_hh, uniform over orthogonal matrices.
    """
    stream = remedy_input.stream("orthogonal")

    def change(layer: Layer) -> bool:
        return layer.orthogonalise(stream)

    found = changed(remedy_input.model, change, remedy_input.x)
    if found is None:
        return None
    code = found.code(
        """
for block in weights["weight_hh"].split(H):
    torch.nn.init.orthogonal_(block)
"""
    )
    return RemedyResult("W_hh orthogonal", found.model, code, found.weights)


ORTHOGONAL = Remedy("orthogonal", "the recurrent matrix itself neither shrinks nor stretches", orthogonal_matrices)


def identity(remedy_input: RemedyInput) -> RemedyResult | None:
    """The identity as recurrent matrix (Le, Jaitly & Hinton 2015): units hold what they have until the input says more.

    W_hh = I and no biases, in layers without gates.
    """

    def change(layer: Layer) -> bool:
        if layer.kind != "rnn":
            return False
        layer.weights["weight_hh"].copy_(torch.eye(layer.hidden))
        for name in ("bias_ih", "bias_hh"):
            if name in layer.weights:
                layer.weights[name].zero_()
        return True

    found = changed(remedy_input.model, change)
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
    return RemedyResult("W_hh = I, no bias", found.model, code, found.weights)


IDENTITY = Remedy("identity", "each unit keeps its own value", identity)

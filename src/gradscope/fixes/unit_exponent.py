"""The gain of W_hh solved so that the leading Lyapunov exponent on this data is 0: the edge of chaos, measured."""

from __future__ import annotations

import math

from gradscope.fixes.layers import Layer, changed, each_layer
from gradscope.fixes.remedy import Patient, Remedy, Treated
from gradscope.models.family import Model
from gradscope.models.recurrent import Recurrent
from gradscope.numerics.spectra.exponents import lyapunov

LOWEST, HIGHEST = 0.125, 16.0
HALVINGS = 8
LONGEST = 100
"""Steps of the sequence that the exponent is measured on."""


def apply(patient: Patient) -> Treated | None:
    """Bisection on ln gain; None where the exponent has one sign between the ends."""
    if not isinstance(patient.model, Recurrent) or any(not hasattr(c, "nonlinearity") for c in patient.model.cells):
        return None
    low, high = math.log(LOWEST), math.log(HIGHEST)
    if not _exponent(patient, low) < 0 < _exponent(patient, high):
        return None
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _exponent(patient, middle) < 0 else (low, middle)
    gain = math.exp((low + high) / 2)
    found = changed(patient.model, _scaling(gain))
    assert found is not None
    return Treated(f"W_hh · {gain:.3g}", found[0], each_layer(f'weights["weight_hh"].mul_({gain!r})'), found[1])


def _scaling(gain: float):  # type: ignore[no-untyped-def]
    def change(layer: Layer) -> bool:
        layer.weights["weight_hh"].mul_(gain)
        return True

    return change


def _exponent(patient: Patient, log_gain: float) -> float:
    made: tuple[Model, object] | None = changed(patient.model, _scaling(math.exp(log_gain)))
    assert made is not None
    assert isinstance(made[0], Recurrent)
    return float(lyapunov(made[0].run(patient.x[:1, :LONGEST]), 1).mean[0])


REMEDY = Remedy("unit exponent", "perturbations neither die out nor grow on this data", apply)

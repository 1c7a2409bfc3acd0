"""The gain of W_hh solved so that the leading Lyapunov exponent on this data is 0: the edge of chaos, measured."""

from __future__ import annotations

import math

from gradscope.fixes.layers import changed, each_layer
from gradscope.fixes.remedy import Patient, Remedy, Treated
from gradscope.fixes.solve import LOG_GAINS, crossing, scaled
from gradscope.models.recurrent import Recurrent
from gradscope.numerics.spectra.exponents import lyapunov

HALVINGS = 8
LONGEST = 100
"""Steps of the sequence that the exponent is measured on."""


def apply(patient: Patient) -> Treated | None:
    """Bisection on ln gain; None where the exponent has one sign between the ends."""
    if not isinstance(patient.model, Recurrent) or any(not hasattr(c, "nonlinearity") for c in patient.model.cells):
        return None
    log_gain = crossing(lambda log_gain: _exponent(patient, log_gain), LOG_GAINS, 0.0, HALVINGS)
    if log_gain is None:
        return None
    found, gain = changed(patient.model, scaled(log_gain)), math.exp(log_gain)
    assert found is not None
    return Treated(f"W_hh · {gain:.3g}", found[0], each_layer(f'weights["weight_hh"].mul_({gain!r})'), found[1])


def _exponent(patient: Patient, log_gain: float) -> float:
    made = changed(patient.model, scaled(log_gain))
    assert made is not None
    assert isinstance(made[0], Recurrent)
    return float(lyapunov(made[0].run(patient.x[:1, :LONGEST]), 1).mean[0])


REMEDY = Remedy("unit exponent", "perturbations neither die out nor grow on this data", apply)

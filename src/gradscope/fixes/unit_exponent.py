"""The gain of W_hh solved so that the leading Lyapunov exponent on this data is 0: the edge of chaos, measured."""

from __future__ import annotations

import math

from gradscope.fixes.layers import changed
from gradscope.fixes.remedy import Patient, Remedy, Treated, of_first_steps
from gradscope.fixes.solve import LOG_GAINS, crossing, scaled
from gradscope.models.cell import Cell
from gradscope.models.custom import CustomCell
from gradscope.models.recurrent import Recurrent
from gradscope.models.rnn import RNNCell
from gradscope.numerics.spectra.exponents import lyapunov
from gradscope.numerics.traces.find import module_trace
from gradscope.numerics.traces.trace import Unavailable

HALVINGS = 8
LONGEST = 100
"""Steps of the sequence that the exponent is measured on."""


def apply(patient: Patient) -> Treated | None:
    """Bisection on ln gain; None where the exponent has one sign between the ends."""
    if isinstance(patient.model, Recurrent) and not all(map(_has_gain, patient.model.cells)):
        return None
    if changed(patient.model, scaled(LOG_GAINS[0]), patient.x) is None:
        return None
    try:
        log_gain = crossing(lambda log_gain: _exponent(patient, log_gain), LOG_GAINS, 0.0, HALVINGS)
    except Unavailable:
        return None
    if log_gain is None:
        return None
    found, gain = changed(patient.model, scaled(log_gain), patient.x), math.exp(log_gain)
    assert found is not None
    code = found.code(f'weights["weight_hh"].mul_({gain!r})')
    return Treated(f"W_hh × {gain:.3g}", found.model, code, found.weights)


def _has_gain(cell: Cell) -> bool:
    """Whether one gain is what there is to solve for: an Elman layer, or a step of the user's."""
    return isinstance(cell, RNNCell | CustomCell)


def _exponent(patient: Patient, log_gain: float) -> float:
    made, x = changed(patient.model, scaled(log_gain), patient.x), patient.x[:1]
    assert made is not None
    model = made.model
    if isinstance(model, Recurrent):
        return float(lyapunov(model.run(x[:, :LONGEST]), 1).mean[0])
    trace = of_first_steps(lambda given: module_trace(model, given), x, LONGEST)
    return float(lyapunov(trace.chain(0), 1).mean[0])


REMEDY = Remedy("unit exponent", "perturbations neither die out nor grow on this data", apply)

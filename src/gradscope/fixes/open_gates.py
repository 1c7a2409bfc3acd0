"""Gate biases solved for a half-life of the needed lag: sigmoid(b)^K = 1/2 (Gers et al. 2000)."""

from __future__ import annotations

from gradscope.fixes.gate_biases import biased
from gradscope.fixes.remedy import Patient, Remedy, Treated
from gradscope.rules.advice import half_life_bias


def apply(patient: Patient) -> Treated | None:
    """One bias for all units."""
    bias = half_life_bias(patient.lag)
    change = f"gate bias {bias:.2g} (half-life {patient.lag})"
    return biased(patient, change, lambda hidden: bias, f"bias = {bias!r}", complement=False)


REMEDY = Remedy("open gates", "the gate that keeps the old state holds half of it over the needed lag", apply)

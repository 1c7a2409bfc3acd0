"""Chrono initialisation (Tallec & Ollivier 2018): forget biases ln U[1, K - 1], input biases their opposite."""

from __future__ import annotations

import torch
from torch import Tensor

from gradscope.fixes.gate_biases import biased
from gradscope.fixes.remedy import Patient, Remedy, Treated


def apply(patient: Patient) -> Treated | None:
    """Time scales from one step to the needed lag, a unit each."""
    longest, stream = max(patient.lag - 1, 2), patient.stream("chrono")

    def drawn(hidden: int) -> Tensor:
        return (1 + torch.rand(hidden, generator=stream, dtype=torch.float64) * (longest - 1)).log()

    code = f"bias = torch.empty(H).uniform_(1, {longest}).log()"
    return biased(patient, f"gate biases ln U[1, {longest}]", drawn, code, complement=True)


REMEDY = Remedy("chrono", "units remember over all times from one step to the needed lag", apply)

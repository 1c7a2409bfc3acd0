"""Uniform gate initialisation (Gu et al. 2020): forget gates uniform in (0, 1), input gates their complement."""

from __future__ import annotations

import torch
from torch import Tensor

from gradscope.fixes.gate_biases import biased
from gradscope.fixes.remedy import Patient, Remedy, Treated


def apply(patient: Patient) -> Treated | None:
    """b_f = logit(u) with u uniform in [1/H, 1 - 1/H], b_i = -b_f."""
    stream = patient.stream("uniform gates")

    def drawn(hidden: int) -> Tensor:
        # One or two units have no such interval: their gates are half open.
        edge = min(1 / hidden, 0.5)
        return (edge + (1 - 2 * edge) * torch.rand(hidden, generator=stream, dtype=torch.float64)).logit()

    code = "edge = min(1 / H, 0.5)\nbias = torch.empty(H).uniform_(edge, 1 - edge).logit()"
    return biased(patient, "gates uniform in (0, 1)", drawn, code, complement=True)


REMEDY = Remedy("uniform gates", "time scales of all lengths, whatever the task turns out to need", apply)

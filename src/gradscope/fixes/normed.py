"""Layer normalisation inside the recurrence (Ba, Kiros & Hinton 2016)."""

from __future__ import annotations

from gradscope.fixes.elman import exchanged
from gradscope.fixes.remedy import Patient, Remedy, Treated
from gradscope.fixes.steps import Normed


def apply(patient: Patient) -> Treated | None:
    """phi(norm(W x + U h + b))."""
    model = exchanged(patient.model, Normed)
    if model is None:
        return None
    code = "h = torch.tanh(norm(W(x_t) + U(h)))  # norm = torch.nn.LayerNorm(H), in the loop over steps\n"
    return Treated("φ(norm(·))", model, code)


REMEDY = Remedy("layer norm", "keeps units out of saturation, where slopes are small", apply)

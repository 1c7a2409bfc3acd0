"""Layer normalisation inside the recurrence (Ba, Kiros & Hinton 2016)."""

from __future__ import annotations

from gradscope.fixes.elman import exchanged
from gradscope.fixes.remedy import Patient, Remedy, Treated
from gradscope.fixes.replacement import other_step
from gradscope.fixes.steps import Normed
from gradscope.models.recurrent import Recurrent


def apply(patient: Patient) -> Treated | None:
    """phi(norm(W x + U h + b))."""
    model = exchanged(patient.model, Normed)
    if model is None:
        return None
    assert isinstance(patient.model, Recurrent)
    what = "phi(norm(W x + U h + b)) (Ba, Kiros and Hinton 2016)."
    norm = "        self.norm = nn.LayerNorm(hidden)\n"
    code, weights = other_step(patient.model, "Normed", what, "{phi(norm)}", norm)
    for place, cell in enumerate(patient.model.cells):
        like = cell.parameters["weight_hh"]
        weights |= {
            f"{place}.norm.weight": like.new_ones(cell.output_size),
            f"{place}.norm.bias": like.new_zeros(cell.output_size),
        }
    return Treated("φ(norm(·))", model, code, weights)


REMEDY = Remedy("layer norm", "keeps units out of saturation, where slopes are small", apply)

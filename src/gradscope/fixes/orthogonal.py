"""Orthogonal recurrent matrices (Saxe et al. 2014; Le et al. 2015 for the identity): they keep every norm."""

from __future__ import annotations

from gradscope.fixes.layer import Layer
from gradscope.fixes.layers import changed
from gradscope.fixes.remedy import Patient, Remedy, Treated


def apply(patient: Patient) -> Treated | None:
    """Each (H, H) block of W_hh, uniform over orthogonal matrices."""
    stream = patient.stream("orthogonal")

    def change(layer: Layer) -> bool:
        return layer.orthogonalise(stream)

    found = changed(patient.model, change, patient.x)
    if found is None:
        return None
    code = found.code(
        """
for block in weights["weight_hh"].split(H):
    torch.nn.init.orthogonal_(block)
"""
    )
    return Treated("W_hh orthogonal", found.model, code, found.weights)


REMEDY = Remedy("orthogonal", "the recurrent matrix itself neither shrinks nor stretches", apply)

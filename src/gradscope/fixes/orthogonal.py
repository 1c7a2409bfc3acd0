"""Orthogonal recurrent matrices (Saxe et al. 2014; Le et al. 2015 for the identity): they keep every norm."""

from __future__ import annotations

import torch

from gradscope.fixes.layers import Layer, changed, each_layer
from gradscope.fixes.remedy import Patient, Remedy, Treated


def apply(patient: Patient) -> Treated | None:
    """Each (H, H) block of W_hh by the QR decomposition of a Gaussian matrix, signs fixed (Mezzadri 2007)."""
    stream = patient.stream("orthogonal")

    def change(layer: Layer) -> bool:
        for block in layer.weights["weight_hh"].split(layer.hidden):
            q, r = torch.linalg.qr(torch.randn(block.shape, generator=stream, dtype=torch.float64))
            block.copy_(q * r.diagonal().sign())
        return True

    found = changed(patient.model, change)
    if found is None:
        return None
    code = each_layer(
        """
for block in weights["weight_hh"].split(H):
    torch.nn.init.orthogonal_(block)
"""
    )
    return Treated("W_hh orthogonal", found[0], code, found[1])


REMEDY = Remedy("orthogonal", "the recurrent matrix itself neither shrinks nor stretches", apply)

"""Clipping at a measured quantile of the gradient's norms (Pascanu et al. 2013), and what it costs in direction."""

from __future__ import annotations

import torch
from torch import Tensor

from gradscope.errors import UsageError
from gradscope.fixes.remedy import Patient, Remedy, Treated
from gradscope.probe.copies import copies_of

QUANTILE = 0.9
UNEVEN = 3.0
"""How many times the median the largest norm must be for clipping to be worth anything."""


def apply(patient: Patient) -> Treated | None:
    """Norms are those of single sequences; None where they are even, or cannot be had."""
    try:
        gradients = of_sequences(patient)
    except UsageError:
        return None
    norms = torch.linalg.vector_norm(gradients, dim=1)
    middle = float(norms.median())
    if len(norms) < 2 or not bool(norms.isfinite().all()) or not 0 < UNEVEN * middle <= float(norms.max()):
        return None
    limit = float(norms.quantile(QUANTILE))
    clipped = gradients * (limit / norms.clamp_min(limit))[:, None]
    kept = float(torch.cosine_similarity(gradients.mean(0), clipped.mean(0), dim=0))
    said = f"clip at {limit:.3g}, cosine {kept:.3f}"
    code = (
        f"# The {QUANTILE:.0%} quantile of the norms of updates on one sequence each. A clipped update points where\n"
        f"# it did, but large ones count for less: the mean has a cosine of {kept:.4f} to the raw mean.\n"
        f"torch.nn.utils.clip_grad_norm_(model.parameters(), {limit:.4g})\n"
    )
    return Treated(said, patient.model, code, of_training=True)


def of_sequences(patient: Patient) -> Tensor:
    """dL/dW of every sequence by itself, (sequences, parameters)."""
    copies = copies_of([patient.model], patient.name)
    leaves = copies.leaves(0)
    output = copies.outputs(patient.x.to(leaves[0])[None], [0])[0]
    (cotangent,) = torch.autograd.grad(patient.loss(leaf := output.detach().requires_grad_()), leaf)
    found = []
    for row in range(len(output)):
        own = torch.zeros_like(cotangent)
        own[row] = cotangent[row]
        parts = torch.autograd.grad(output, leaves, own, retain_graph=True, allow_unused=True)
        found.append(torch.cat([part.flatten() for part in parts if part is not None]))
    return torch.stack(found).double()


REMEDY = Remedy("clipped", "a few sequences with gradients far above the rest no longer decide the step", apply)

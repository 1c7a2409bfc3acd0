"""How large the outputs that the loss reads are."""

from __future__ import annotations

import torch

from gradscope.numerics.analysis import Analysis, Unavailable


def measure(analysis: Analysis) -> float:
    """Root mean square of the output at the newest anchor, over sequences and features of the first run.

    Raises:
        Unavailable: the output has no steps, or the loss reads none.
    """
    analysis.require_finite()
    output = analysis.trace.output
    if output.ndim != 3 or not analysis.anchors or analysis.anchor > output.shape[1]:
        raise Unavailable("the output that the loss reads has no steps")
    read = output[:, analysis.anchor - 1].double()
    return float(torch.sqrt(read.square().mean()))

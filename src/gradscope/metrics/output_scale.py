"""How large the outputs that the loss reads are."""

from __future__ import annotations

import torch

from gradscope.numerics.analysis import Analysis, Unavailable


def measure(analysis: Analysis) -> float:
    """Root mean square of the output at each sequence's newest anchor, over features and those read in the first run.

    Raises:
        Unavailable: the output has no steps, or the loss reads none.
    """
    analysis.require_finite()
    output = analysis.trace.output
    if output.ndim != 3 or not analysis.anchors or analysis.anchor > output.shape[1]:
        raise Unavailable("the output that the loss reads has no steps")
    ends = analysis.newest[0]
    if ends is None:
        read = output[:, analysis.anchor - 1]
    else:
        read = output[torch.arange(len(output), device=output.device), ends - 1][ends > 0]
    # What a mask has set to -inf is read by no loss.
    return float(torch.sqrt(read[read.isfinite()].double().square().mean()))

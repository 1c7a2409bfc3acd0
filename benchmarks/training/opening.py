"""When the gradient's share opened, and when the loss fell, in a run that a Monitor wrote."""

from __future__ import annotations

import math
from pathlib import Path

from gradscope.flow_file import read_flow
from gradscope.trajectory import leading

WIDER = 3.0
"""log10: how far the share must have risen above its least for the past to count as open."""
HALF = 0.5
"""Part of the first losses' mean below which the loss has fallen."""


def told(path: Path) -> str:
    """One sentence with both steps."""
    points = [p for p in leading(read_flow(str(path))) if p.gradient_share is not None and p.loss is not None]
    shares = [(p.step, p.gradient_share) for p in points if p.gradient_share is not None]
    losses = [(p.step, p.loss) for p in points if p.loss is not None]
    early = [loss for step, loss in losses if 100 <= step <= 300] or [losses[0][1]]
    level = math.fsum(early) / len(early)
    place = min(range(len(shares)), key=lambda i: shares[i][1])
    opened = next((step for step, share in shares[place:] if share >= shares[place][1] + WIDER), None)
    fell = next((step for step, loss in losses if step > 100 and loss < HALF * level), None)
    lag, least = points[0].needed_lag, shares[place]
    said = f"share at lag {lag}: least 10^{least[1]:.1f} at step {least[0]}"
    said += f", a factor of {10**WIDER:g} above that from step {opened} on" if opened is not None else ", never opened"
    said += f"; loss below half of {level:.3f} from step {fell} on" if fell is not None else "; the loss never fell"
    if opened is not None and fell is not None:
        said += f": the share opened {fell - opened} steps before"
    return said

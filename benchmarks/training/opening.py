"""When the gradient's share opened, and when the loss fell, in a run that a Monitor wrote."""

from __future__ import annotations

import math
from pathlib import Path

from gradscope.flow_file import read_flow
from gradscope.trajectory import leading

HALF = 0.5
"""Part of the first losses' mean below which the loss has fallen."""


def told(path: Path) -> str:
    """One sentence with both steps."""
    points = [p for p in leading(read_flow(str(path))) if p.reach is not None and p.loss is not None]
    first, lag = points[0], points[0].needed_lag or 1
    short = [place for place, point in enumerate(points) if (point.reach or 0) < lag]
    opened = points[short[-1] + 1] if short and short[-1] + 1 < len(points) else None
    early = [p.loss or 0.0 for p in points if 100 <= p.step <= 300] or [first.loss or 0.0]
    level = math.fsum(early) / len(early)
    fell = next((p for p in points if p.step > 100 and (p.loss or 0.0) < HALF * level), None)
    said = f"reach {first.reach} of {lag} lags and share 10^{first.gradient_share:.1f} at step {first.step}"
    if opened is not None:
        said += f"; reach {opened.reach} and share 10^{opened.gradient_share:.1f} from step {opened.step} on"
    said += (
        f"; loss below half of {level:.3f} from step {fell.step} on" if fell is not None else "; no fall of the loss"
    )
    if opened is not None and fell is not None:
        said += f": the past opened {fell.step - opened.step} steps before the loss fell"
    return said

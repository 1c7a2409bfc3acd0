"""A point as named numbers, for loggers that draw curves."""

from __future__ import annotations

import math

from gradscope.trajectory import Point

FIELDS = ("gradient_share", "reach", "rate", "lyapunov", "below_float32")


def scalars(point: Point) -> dict[str, float]:
    """`gradscope/rnn/reach` and so on. Zero, whose log10 is -inf, and NaN are passed on as they are, not dropped."""
    prefix = "gradscope/" + (f"{point.layer}/" if point.layer else "")
    if point.kind == "analysis" and point.layer:
        prefix += "analysis/"
    found = {name: getattr(point, name) for name in FIELDS}
    found |= {f"gate/{name}": value for name, value in point.gates.items()}
    if point.norms is not None:
        found["log10_norm_raw"] = point.norms.log10_raw
        found["log10_norm_clipped"] = point.norms.log10_clipped
        found["clip_cosine"] = point.norms.cosine
    known = {f"{prefix}{name}": float(value) for name, value in found.items() if value is not None}
    if point.status is not None:
        known[f"{prefix}healthy"] = float(point.status == "healthy")
    return known


def finite(values: dict[str, float], floor: float = -400.0) -> dict[str, float]:
    """The same for a logger that drops or refuses what is not finite: -inf becomes a floor that a curve can show."""
    return {name: floor if value == -math.inf else value for name, value in values.items()}

"""`gradscope analyze`: one model."""

from __future__ import annotations

from typing import Unpack

from gradscope.cli.options import OneModel, RunFlags, spread


@spread(RunFlags)
def analyze(
    model: OneModel = None,
    **flags: Unpack[RunFlags],
) -> int:
    """How far back can this model learn, and why not further?"""
    from gradscope.cli.measure import measure

    return measure([model] if model is not None else None, flags, compare=False)

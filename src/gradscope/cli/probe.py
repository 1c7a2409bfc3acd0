"""`gradscope probe`: does it really learn?"""

from __future__ import annotations

from typing import Unpack

from gradscope.cli.options import OneModel, RunFlags, spread
from gradscope.errors import UsageError

LAG = 50
"""Where none is given."""


@spread(RunFlags)
def probe(
    model: OneModel = None,
    **flags: Unpack[RunFlags],
) -> int:
    """Does it learn at that lag? Short trainings of copies, beside a twin known to learn."""
    from gradscope.cli.measure import measure

    if flags.get("length") is not None:
        raise UsageError("a probe's sequences are as long as its lag asks: leave out --length, give --lag")
    asked = {**flags, "probe": True, "task": flags.get("task") or "recall"}
    if flags.get("needs_lag") is None:
        asked["needs_lag"] = LAG
    return measure([model] if model is not None else None, asked, compare=False)  # type: ignore[arg-type]

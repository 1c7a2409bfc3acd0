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

    asked = {**flags, "probe": True}
    if flags.get("input") or flags.get("text"):
        asked["loss"] = flags.get("loss") or _loss(flags)
    elif flags.get("length") is not None:
        raise UsageError("a probe's sequences are as long as its lag asks: leave out --length, give --lag")
    else:
        asked["task"] = flags.get("task") or "recall"
    if flags.get("needs_lag") is None:
        asked["needs_lag"] = LAG
    return measure([model] if model is not None else None, asked, compare=False)  # type: ignore[arg-type]


def _loss(flags: RunFlags) -> str:
    """What data ask for where nobody says: the next token of a text, numbers otherwise."""
    return "ce" if flags.get("text") or str(flags.get("input")).endswith(".txt") else "mse"

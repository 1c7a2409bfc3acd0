"""`gradscope probe`: does it really learn?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack, cast

from gradscope.cli.options import OneModel, RunFlags, spread

LAG, TASK = 50, "recall"
"""Where none is given."""


@spread(RunFlags)
def probe(
    model: OneModel = None,
    **flags: Unpack[RunFlags],
) -> int:
    """Does it learn at that lag? Short trainings of copies, beside a twin known to learn."""
    from gradscope.cli.measure import measure

    asked = cast(RunFlags, {**flags, "probe": True})
    return measure([model] if model is not None else None, asked, compare=False, rest=_rest)


def _rest(given: Mapping[str, Any]) -> dict[str, Any]:
    """A task and a lag where there are no data; of data, the next token of a text, numbers otherwise."""
    data, text = given.get("input"), given.get("text")
    if given.get("task") is None and (data is not None or text is not None):
        is_text = text is not None or Path(str(data)).suffix.lower() == ".txt"
        return {"loss": "ce" if is_text else "mse"}
    return {"needs_lag": LAG, "task": TASK}

"""A sweep as JSON: `gradscope.sweep/1`."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, fields
from typing import Any

from gradscope.records import RunSpec
from gradscope.renderers.view import View
from gradscope.swept import Sweep


def render(sweep: Sweep, view: View) -> str:
    """One JSON object with a trailing newline, ASCII only, a line for each run.

    Non-finite floats become `"nan"`, `"inf"`, `"-inf"`; unknown is null. `view` changes nothing: data are data.
    """
    default = RunSpec()
    settings = {
        item.name: value
        for item in fields(sweep.spec)
        if (value := getattr(sweep.spec, item.name)) != getattr(default, item.name) or item.name == "models"
    }
    head: dict[str, Any] = {
        "schema": sweep.schema,
        "run": sweep.run,
        "spec": settings,
        "axes": [asdict(axis) for axis in sweep.axes],
        "seeds": sweep.seeds,
        "threads": sweep.threads,
        "versions": sweep.versions,
        "fields": sweep.fields,
    }
    lines = [f"  {json.dumps(name)}: {_written(value)}," for name, value in head.items()]
    runs = ",\n".join(f"    {_written(_run(sweep, place))}" for place in range(len(sweep.runs)))
    return "{\n" + "\n".join(lines) + '\n  "runs": [\n' + runs + "\n  ]\n}\n"


def _run(sweep: Sweep, place: int) -> dict[str, Any]:
    run = sweep.runs[place]
    at = dict(zip((axis.name for axis in sweep.axes), sweep.at(run.point), strict=True))
    return {"at": at, **asdict(run)}


def _written(value: Any) -> str:
    return json.dumps(_spelled(value), allow_nan=False)


def _spelled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _spelled(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_spelled(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value

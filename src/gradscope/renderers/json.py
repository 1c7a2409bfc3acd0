"""The report as JSON: the file format `gradscope.report/1`, the same bytes for equal reports."""

from __future__ import annotations

import json
import math
import re
from dataclasses import fields, is_dataclass
from typing import Any

from gradscope.records import Report, Series
from gradscope.renderers.view import View

REAL = re.compile(r"\b(float|Number|Values)\b")
"""Annotations of the records that stand for floats, alone or in tuples and dicts."""


def render(report: Report, view: View) -> str:
    """One JSON object with a trailing newline; ASCII only, lists of numbers on one line.

    Non-finite floats become `"nan"`, `"inf"`, `"-inf"`; unknown is null. `view` changes nothing: data are data.
    """
    return _written(_object(report, first="schema"), "") + "\n"


def _object(record: Any, first: str | None = None) -> dict[str, Any]:
    """Field -> value of one record, one level deep; the field named `first` leads."""
    if isinstance(record, Series):
        # In the file, steps, tokens and the named quantities stand side by side.
        return {"step": record.step, "token": record.token, **_real(record.values)}
    found = {}
    for field in sorted(fields(record), key=lambda field: field.name != first):
        value = getattr(record, field.name)
        found[field.name] = _real(value) if REAL.search(str(field.type)) else value
    return found


def _real(value: Any) -> Any:
    """Whole numbers where the record wants floats, as floats: 7 would come back as 7.0, other bytes."""
    if isinstance(value, dict):
        return {name: _real(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_real(item) for item in value]
    return float(value) if isinstance(value, (int, float)) else value


def written(record: Any) -> str:
    """Any record of ours as one JSON object."""
    return _written(record, "")


def _written(value: Any, indent: str) -> str:
    inner = indent + "  "
    if is_dataclass(value):
        value = _object(value)
    if isinstance(value, dict) and value:
        items = [f"{inner}{json.dumps(str(key))}: {_written(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if isinstance(value, (list, tuple)) and any(_is_nested(item) for item in value):
        return "[\n" + ",\n".join(inner + _written(item, inner) for item in value) + f"\n{indent}]"
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(_spelled(value), allow_nan=False)


def _is_nested(item: Any) -> bool:
    return isinstance(item, (dict, list, tuple)) or is_dataclass(item)


def _spelled(value: Any) -> Any:
    """Non-finite floats by name: JSON has no word for them."""
    if isinstance(value, (list, tuple)):
        return [_spelled(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value

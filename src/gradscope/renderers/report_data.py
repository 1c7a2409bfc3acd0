"""The report for programs: its steps as CSV, and the whole as JSON, `gradscope.report/1`."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from io import StringIO
from typing import Any

from gradscope.records import Number, Report, Series
from gradscope.renderers.strips import Timeline
from gradscope.renderers.view import View
from gradscope.text import safe_text
from gradscope.trained import Probe

FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
LEADING = ("model", "step", "lag", "token")
TRAINED = ("model", "rate", "seed", "clip", "training_step", "error", "largest_norm", "log10_share", "reach", "learned")


def csv_text(report: Report, view: View) -> str:
    """Columns model, step, lag, token, then every series; unknown values are empty cells, zero is `-inf` in log10.

    The lag counts from the newest step that the loss reads; steps after it have none.

    Of a probe there is a row for every run and look at its error instead: columns `TRAINED`, in which `largest_norm`
    is the gradient's from that look to the next, before clipping. Text that a spreadsheet would run as a formula is
    preceded by an apostrophe.
    """
    probed = [(model.name, model.probe) for model in report.models if model.probe is not None]
    if probed:
        return _trainings(probed, view)
    names = list(dict.fromkeys(name for model in report.models for name in model.series.values))
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*LEADING, *(csv_cell(name, view) for name in names)])
    for model in report.models:
        timeline = Timeline(model.series)
        label = csv_cell(model.name, view)
        for place, step in enumerate(timeline.step):
            token = timeline.token(place)
            values = (_csv_number(timeline.at(name, place)) for name in names)
            lag = timeline.lag(place)
            told = ("" if lag is None else lag, "" if token is None else csv_cell(token, view))
            writer.writerow([label, step, *told, *values])
    return out.getvalue()


def _trainings(probed: Iterable[tuple[str, Probe]], view: View) -> str:
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(TRAINED)
    for name, probe in probed:
        for run in probe.runs:
            seen = {one.step: one for one in run.sights}
            setting = (csv_cell(name, view), repr(run.rate), run.seed, "" if run.clip is None else repr(run.clip))
            for step in sorted({*run.steps, *seen}):
                at = run.steps.index(step) if step in run.steps else None
                error = None if at is None else run.errors[at]
                # After the last look nothing is trained.
                norm = None if at is None or at == len(run.steps) - 1 else run.norms[at]
                sight = seen.get(step)
                share, reach = (None, None) if sight is None else (sight.gradient_share, sight.reach)
                known = "" if at is None else int(run.learned_at is not None and step >= run.learned_at)
                values = (_csv_number(error), _csv_number(norm), _csv_number(share), "" if reach is None else reach)
                writer.writerow([*setting, step, *values, known])
    return out.getvalue()


def csv_cell(text: str, view: View) -> str:
    """Foreign text for a cell: no control characters, no formula."""
    safe = safe_text(text)
    if view.ascii:
        safe = safe.encode("ascii", "backslashreplace").decode()
    return f"'{safe}" if safe.lstrip().startswith(FORMULA) else safe


def _csv_number(value: Number) -> str:
    return "" if value is None else repr(float(value))


REAL = re.compile(r"\b(float|Number|Values)\b")
"""Annotations of the records that stand for floats, alone or in tuples and dicts."""


def json_text(report: Report, view: View) -> str:
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

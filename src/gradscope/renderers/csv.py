"""The steps as CSV: one row per model and step, for spreadsheets and data frames; the trainings of a probe likewise."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from io import StringIO

from gradscope.records import Number, Report
from gradscope.renderers.text.timeline import Timeline
from gradscope.renderers.view import View
from gradscope.text import safe_text
from gradscope.trained import Probe

FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
LEADING = ("model", "step", "lag", "token")
TRAINED = ("model", "rate", "seed", "clip", "training_step", "error", "largest_norm", "log10_share", "reach", "learned")


def render(report: Report, view: View) -> str:
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
    writer.writerow([*LEADING, *(cell(name, view) for name in names)])
    for model in report.models:
        timeline = Timeline(model.series)
        label = cell(model.name, view)
        for place, step in enumerate(timeline.step):
            token = timeline.token(place)
            values = (_number(timeline.at(name, place)) for name in names)
            lag = timeline.lag(place)
            told = ("" if lag is None else lag, "" if token is None else cell(token, view))
            writer.writerow([label, step, *told, *values])
    return out.getvalue()


def _trainings(probed: Iterable[tuple[str, Probe]], view: View) -> str:
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(TRAINED)
    for name, probe in probed:
        for run in probe.runs:
            seen = {one.step: one for one in run.sights}
            setting = (cell(name, view), repr(run.rate), run.seed, "" if run.clip is None else repr(run.clip))
            for step in sorted({*run.steps, *seen}):
                at = run.steps.index(step) if step in run.steps else None
                error = None if at is None else run.errors[at]
                # After the last look nothing is trained.
                norm = None if at is None or at == len(run.steps) - 1 else run.norms[at]
                sight = seen.get(step)
                share, reach = (None, None) if sight is None else (sight.gradient_share, sight.reach)
                known = "" if at is None else int(run.learned_at is not None and step >= run.learned_at)
                values = (_number(error), _number(norm), _number(share), "" if reach is None else reach)
                writer.writerow([*setting, step, *values, known])
    return out.getvalue()


def cell(text: str, view: View) -> str:
    """Foreign text for a cell: no control characters, no formula."""
    safe = safe_text(text)
    if view.ascii:
        safe = safe.encode("ascii", "backslashreplace").decode()
    return f"'{safe}" if safe.lstrip().startswith(FORMULA) else safe


def _number(value: Number) -> str:
    return "" if value is None else repr(float(value))

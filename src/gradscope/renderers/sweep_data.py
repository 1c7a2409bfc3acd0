"""A sweep as CSV, Parquet with types, JSON (`gradscope.sweep/1`) and Markdown."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, fields
from io import BytesIO, StringIO
from typing import Any

from gradscope.errors import UsageError
from gradscope.records import RunSpec
from gradscope.renderers import sweep_screen, sweep_wording
from gradscope.renderers.markdown import escaped, table
from gradscope.renderers.report_data import csv_cell
from gradscope.renderers.view import View
from gradscope.swept import SCHEMA, Sweep, cells

STANDARD = ("state", "status", "worst", "seconds", "reason")


def column_names(sweep: Sweep) -> tuple[str, ...]:
    """The columns: axes, seed, how the run ended, then every number of its summary; no name twice.

    What is told of a run under the name of an axis (the axis `gain` and the gain measured) is `run.gain`.
    """
    axes = tuple(axis.name for axis in sweep.axes)
    told = (*(() if "seed" in axes else ("seed",)), *STANDARD, *sweep.fields)
    return (*axes, *(f"run.{name}" if name in axes else name for name in told))


def data_rows(sweep: Sweep) -> Iterator[tuple[str | float | None, ...]]:
    """One row for each run, aligned with `column_names`; what is unknown is None."""
    axes = tuple(axis.name for axis in sweep.axes)
    empty = (None,) * len(sweep.fields)
    for run in sweep.runs:
        seed = () if "seed" in axes else (run.seed,)
        told = (run.state, run.status, run.worst, run.seconds, run.reason or None)
        yield (*sweep.at(run.point), *seed, *told, *(run.values or empty))


def csv_text(sweep: Sweep, view: View) -> str:
    """The axes, the seed, how the run ended, every number of its summary; unknown values are empty cells.

    Text that a spreadsheet would run as a formula is preceded by an apostrophe.
    """
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([csv_cell(name, view) for name in column_names(sweep)])
    for row in data_rows(sweep):
        writer.writerow([_csv_cell(value, view) for value in row])
    return out.getvalue()


def _csv_cell(value: str | float | None, view: View) -> str:
    if isinstance(value, str):
        return value if _is_number(value) else csv_cell(value, view)
    return "" if value is None else repr(value)


def _is_number(text: str) -> bool:
    """Whether a text is a plain number, which no spreadsheet runs, whatever its sign."""
    return text.lstrip("-").replace(".", "", 1).isascii() and text.lstrip("-").replace(".", "", 1).isdigit()


def json_text(sweep: Sweep, view: View) -> str:
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
    lines = [f"  {json.dumps(name)}: {_json_line(value)}," for name, value in head.items()]
    runs = ",\n".join(f"    {_json_line(_json_run(sweep, place))}" for place in range(len(sweep.runs)))
    return "{\n" + "\n".join(lines) + '\n  "runs": [\n' + runs + "\n  ]\n}\n"


def _json_run(sweep: Sweep, place: int) -> dict[str, Any]:
    run = sweep.runs[place]
    at = dict(zip((axis.name for axis in sweep.axes), sweep.at(run.point), strict=True))
    return {"at": at, **asdict(run)}


def _json_line(value: Any) -> str:
    return json.dumps(_spelled(value), allow_nan=False)


def _spelled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _spelled(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_spelled(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def parquet_bytes(sweep: Sweep, view: View) -> bytes:
    """One row for each run; axes whose values are all numbers are numbers. `view` changes nothing: data are data.

    Raises:
        UsageError: pyarrow, which writes it, is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UsageError("Parquet is written by pyarrow; pip install 'gradscope-bptt[parquet]'") from None
    names = column_names(sweep)
    columns: list[list[Any]] = [list(column) for column in zip(*data_rows(sweep), strict=True)] or [[] for _ in names]
    for place, axis in enumerate(sweep.axes):
        if axis.numbers is not None:
            by_text = dict(zip(axis.values, axis.numbers, strict=True))
            columns[place] = [by_text[text] for text in columns[place]]
    texts = {*STANDARD} - {"seconds"}
    kinds = [pyarrow.string() if axis.numbers is None else pyarrow.float64() for axis in sweep.axes]
    kinds += [
        pyarrow.string()
        if name.removeprefix("run.") in texts
        else pyarrow.int64()
        if name == "seed"
        else pyarrow.float64()
        for name in names[len(sweep.axes) :]
    ]
    schema = pyarrow.schema(list(zip(names, kinds, strict=True)), metadata={"schema": SCHEMA})
    out = BytesIO()
    arrays = [pyarrow.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    pyarrow.parquet.write_table(pyarrow.table(arrays, schema=schema), out)
    return out.getvalue()


def render(sweep: Sweep, view: View) -> str:
    """Verdict, phase diagram, frontier, the best point with its command, table, failures.

    Raises:
        UsageError: `view` names an axis or a number that the sweep does not have.
    """
    every = list(cells(sweep))
    sign, said = sweep_wording.verdict(every)
    parts = [f"## {escaped(f'{sign} {said}', view)}", escaped(sweep_wording.heading(sweep), view)]
    left = sweep_wording.unfinished(sweep)
    parts += [escaped(left, view)] if left else []
    place = sweep_wording.chosen_field(sweep, view)
    shade = None if place is None else sweep_screen.shading(every, place, view.ascii)
    for plane in sweep_screen.planes(sweep, every, view):
        if plane.fixed:
            parts.append("### " + escaped(", ".join(f"{name}={value}" for name, value in plane.fixed), view))
        corner = f"{plane.down.name} / {plane.across.name}" if plane.across else plane.down.name
        heads = [corner, *(plane.across.values if plane.across else ("",))]
        rows = [
            [
                text,
                *(shade(cell) if shade else sweep_screen.said(cell, sweep_screen.STATUS, view.ascii) for cell in row),
            ]
            for text, row in zip(plane.down.values, plane.rows, strict=True)
        ]
        parts.append(table(heads, rows, view))
    told = sweep_wording.sentences(sweep, every)
    parts += ["\n".join(f"- {escaped(sentence, view)}" for sentence in told)] if told else []
    found = sweep_wording.best_point(sweep, every)
    if found is not None:
        parts.append(f"Best: {escaped(found[0], view)}\n\n    {escaped_code(found[1])}")
    names = sweep_wording.columns(sweep, view)
    shown, note = sweep_wording.rows(sweep, every, view)
    heads = [*(axis.name for axis in sweep.axes), "status", *(name.replace("_", " ") for name in names)]
    body = [
        [
            *sweep.at(cell.point),
            sweep_screen.said(cell, sweep_screen.STATUS, view.ascii),
            *sweep_wording.row(sweep, cell, names, view),
        ]
        for cell in shown
    ]
    parts += [table(heads, body, view)] if body else []
    parts += [escaped(note, view)] if note else []
    failed = sweep_wording.failures(sweep)
    parts += ["\n".join(f"- {escaped(reason, view)}" for reason in failed)] if failed else []
    return "\n\n".join(parts) + "\n"


def escaped_code(text: str) -> str:
    """A line of an indented block, in which nothing is special but its end."""
    from gradscope.text import safe_text

    return safe_text(text, 1000)

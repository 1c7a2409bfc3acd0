"""A trajectory for programs: CSV of its points, one JSON object, and lines of JSON, `gradscope.flow/1`."""

from __future__ import annotations

import csv
from io import StringIO

from gradscope.flow_file import lines_of
from gradscope.renderers.report_data import csv_cell, written
from gradscope.renderers.view import View
from gradscope.trajectory import Trajectory

FIELDS = (
    *("step", "kind", "layer", "source", "length", "loss", "needed_lag", "gradient_share", "reach", "rate"),
    *("lyapunov", "status", "below_float32", "reads", "seconds"),
)
NORMS = ("log10_raw", "log10_clipped", "cosine", "backwards", "loss_scale")


def csv_text(trajectory: Trajectory, view: View) -> str:
    """A column per field, gate and norm; unknown values are empty cells, zero is `-inf` in log10."""
    gates = list(dict.fromkeys(name for point in trajectory.points for name in point.gates))
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*FIELDS, *NORMS, *(csv_cell(f"gate.{name}", view) for name in gates), "findings"])
    for point in trajectory.points:
        values = [getattr(point, name) for name in FIELDS]
        values += [getattr(point.norms, name, None) for name in NORMS]
        values += [point.gates.get(name) for name in gates]
        writer.writerow([*(_cell(value, view) for value in values), " ".join(point.findings)])
    return out.getvalue()


def _cell(value: object, view: View) -> str:
    if value is None:
        return ""
    return csv_cell(value, view) if isinstance(value, str) else repr(value)


def json_text(trajectory: Trajectory, view: View) -> str:
    """Non-finite floats by name, unknown as null; `view` changes nothing: data are data."""
    return written(trajectory) + "\n"


def json_lines(trajectory: Trajectory, view: View) -> str:
    """The head, then a line per point, thing skipped and note; `view` changes nothing: data are data."""
    return lines_of(trajectory)

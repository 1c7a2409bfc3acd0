"""The points as CSV: one row each, for spreadsheets and data frames."""

from __future__ import annotations

import csv
from io import StringIO

from gradscope.renderers.csv import cell
from gradscope.renderers.view import View
from gradscope.trajectory import Trajectory

FIELDS = (
    *("step", "kind", "layer", "source", "length", "loss", "needed_lag", "gradient_share", "reach", "rate"),
    *("lyapunov", "status", "below_float32", "reads", "seconds"),
)
NORMS = ("log10_raw", "log10_clipped", "cosine", "backwards", "loss_scale")


def render(trajectory: Trajectory, view: View) -> str:
    """A column per field, gate and norm; unknown values are empty cells, zero is `-inf` in log10."""
    gates = list(dict.fromkeys(name for point in trajectory.points for name in point.gates))
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*FIELDS, *NORMS, *(cell(f"gate.{name}", view) for name in gates), "findings"])
    for point in trajectory.points:
        values = [getattr(point, name) for name in FIELDS]
        values += [getattr(point.norms, name, None) for name in NORMS]
        values += [point.gates.get(name) for name in gates]
        writer.writerow([*(_cell(value, view) for value in values), " ".join(point.findings)])
    return out.getvalue()


def _cell(value: object, view: View) -> str:
    if value is None:
        return ""
    return cell(value, view) if isinstance(value, str) else repr(value)

"""What a sweep says in sentences, shared by the forms that people read, and its best point."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from gradscope.config.axes import spec_at
from gradscope.config.command import command
from gradscope.errors import UsageError
from gradscope.records import Number
from gradscope.registry import unknown
from gradscope.renderers.text import numbers
from gradscope.renderers.view import View
from gradscope.swept import LOOKS, Cell, Sweep

FIELDS = ("reach", "needed_lag", "rate")
"""Numbers of a summary that the order rests on."""


def ranked(sweep: Sweep, cells: Sequence[Cell]) -> list[Cell]:
    """Cells with a result, best first: most seeds healthy, then the longest reach, then the rate nearest to zero."""
    places = {name: sweep.fields.index(name) for name in FIELDS if name in sweep.fields}

    def order(cell: Cell) -> tuple[float, float, float]:
        reach = cell.values[places["reach"]] if "reach" in places else None
        rate = cell.values[places["rate"]] if "rate" in places else None
        healthy = cell.agreeing / cell.runs if cell.status == "healthy" else 0.0
        return -healthy, -(reach or 0.0), abs(rate) if rate is not None and math.isfinite(rate) else math.inf

    return sorted((cell for cell in cells if cell.values), key=order)


def reproduced(sweep: Sweep, cell: Cell) -> str:
    """The command that analyses a point, all seeds of it together."""
    names = [axis.name for axis in sweep.axes]
    spec = spec_at(sweep.spec, sweep.axes, sweep.at(cell.point))
    if "seed" not in names:
        spec = replace(spec, seed=sweep.seeds[0], seeds=max(len(sweep.seeds), spec.seeds))
    return command(spec, always=names)


COLUMNS = ("reach", "gain", "gradient_share", "lyapunov", "directions")
"""Numbers of the table, as far as the runs have them."""
NEEDED = ("reach", "needed_lag", "rate", *COLUMNS)
"""Numbers of the summaries that a screen is made of."""
SHORTEST, LONGEST = 8, 24
"""Rows of the table where not every point is shown, and points up to which all are."""


def heading(sweep: Sweep) -> str:
    """`lstm · 14 points · 2 seeds · hidden 16`: what was varied, and what was not."""
    models = tuple({axis.name: axis.values for axis in sweep.axes}.get("model", sweep.spec.models))
    parts = [" ".join(models), _count(sweep.points, "point")]
    if len(sweep.seeds) > 1:
        parts.append(f"seeds {sweep.seeds[0]}-{sweep.seeds[-1]}")
    # What varies is no setting of all, whatever the project's file says of it.
    varied = {axis.name for axis in sweep.axes if axis.kind == "setting"} | {
        "seeds",
        *(("seed",) if len(sweep.seeds) > 1 else ()),
    }
    line = command(replace(sweep.spec, models=models), without=varied)
    shared = line.removeprefix(shlex.join(["gradscope", "analyze", *models])).strip()
    parts += [shared] if shared else []
    parts += [f"{axis.name}={axis.values[0]}" for axis in sweep.axes if len(axis.values) == 1]
    return " · ".join(parts)


def verdict(cells: Sequence[Cell]) -> tuple[str, str]:
    """The sign and the sentence of a whole sweep: `9 of 14 points are healthy`."""
    count = Counter(cell.status for cell in cells)
    healthy = count["healthy"]
    rest = [f"{count[status]} {status}" for status in LOOKS if count[status] and status != "healthy"]
    said = f"{healthy} of {len(cells)} points {'is' if healthy == 1 else 'are'} healthy"
    sign = "✓" if healthy == len(cells) else "✗" if not healthy else "≈"
    return sign, said + (f"; {', '.join(rest)}" if rest else "")


def chosen_field(sweep: Sweep, view: View) -> int | None:
    """The place of the number that the cells show, None for their status.

    Raises:
        UsageError: no run has that number.
    """
    if not view.shade:
        return None
    if view.shade not in sweep.fields:
        raise UsageError(f"{unknown('number', view.shade, sweep.fields)} (--shade)")
    return sweep.fields.index(view.shade)


def rows(sweep: Sweep, cells: Sequence[Cell], view: View) -> tuple[list[Cell], str]:
    """The points of the table, and what was left out: all of them, or the best ones."""
    if view.steps == "all" or len(cells) <= LONGEST:
        return list(cells), ""
    shown = ranked(sweep, cells)[:SHORTEST]
    return shown, f"the best {len(shown)} of {len(cells)} points; --steps all shows every one" if shown else ""


def row(sweep: Sweep, cell: Cell, names: Sequence[str], view: View) -> list[str]:
    """The numbers of a point under `names`."""
    found = []
    for name in names:
        value: Number = cell.values[sweep.fields.index(name)] if cell.values else None
        found.append(numbers.share(value) if name == "gradient_share" else numbers.plain(value))
    return found


def columns(sweep: Sweep, view: View) -> list[str]:
    """Which numbers the table shows."""
    wanted = dict.fromkeys((*COLUMNS, *((view.shade,) if view.shade else ())))
    return [name for name in wanted if name in sweep.fields]


def best_point(sweep: Sweep, cells: Sequence[Cell]) -> tuple[str, str] | None:
    """The best point in words, and the command that analyses it; None where no run has a result."""
    order = ranked(sweep, cells)
    if not order:
        return None
    cell = order[0]
    where = ", ".join(f"{axis.name}={text}" for axis, text in zip(sweep.axes, sweep.at(cell.point), strict=True))
    said = [f"{cell.status}" + (f" for {cell.agreeing} of {cell.runs} seeds" if cell.runs > 1 else "")]
    said += [
        f"{name} {numbers.plain(cell.values[sweep.fields.index(name)])}"
        for name in ("reach", "gain")
        if name in sweep.fields
    ]
    return f"{where}: {', '.join(said)}", reproduced(sweep, cell)


def failures(sweep: Sweep) -> list[str]:
    """Why runs failed, most frequent first, with a point of each."""
    failed = [run for run in sweep.runs if run.state == "failed"]
    count = Counter(run.reason for run in failed)
    told = []
    for reason, times in count.most_common(5):
        run = next(run for run in failed if run.reason == reason)
        where = ", ".join(f"{axis.name}={text}" for axis, text in zip(sweep.axes, sweep.at(run.point), strict=True))
        more = f" (first of {times})" if times > 1 else ""
        told.append(f"{where}{more}: {reason}")
    return told


def unfinished(sweep: Sweep) -> str:
    """What is still to be done."""
    count = Counter(run.state for run in sweep.runs)
    left = count["waiting"] + count["running"]
    return f"{left} of {len(sweep.runs)} runs are still to be done; the same command goes on" if left else ""


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"

"""What a training run says, in sentences and cells that all formats share, and the run as CSV and JSON."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from io import StringIO

from gradscope.flow_file import lines_of
from gradscope.records import Verdict
from gradscope.renderers import numbers
from gradscope.renderers.report_data import csv_cell, written
from gradscope.renderers.view import View
from gradscope.rules.gs5_training import clipped_share
from gradscope.rules.judge import advice_at_end, last_judged_point, trajectory_status
from gradscope.trajectory import Change, Point, Trajectory, changes_of_status, leading
from gradscope.verdicts import STATUSES

HEADS = ("step", "status", "measured", "share", "reach", "rate", "exponent", "loss", "raw norm", "clipped")
LAYER = 2
"""Where the column for the layer stands."""
FEW = 12
TINY = 1e-9
"""Rates and exponents below are rounding, and shown as zero."""
TOLERATED = 0.05
"""Part of the training's time that measuring may take before the screen says so."""


def findings_of(trajectory: Trajectory) -> list[Verdict]:
    """What failed or warned, errors first, the one that gives the status before others."""
    status = trajectory_status(trajectory)
    said = [verdict for verdict in trajectory.verdicts if verdict.status in ("fail", "warn")]
    return sorted(said, key=lambda verdict: (verdict.gives != status, verdict.status != "fail"))


def lead(trajectory: Trajectory) -> Verdict | None:
    """The finding that gives the status; None where that is how the run ended."""
    return next(
        (verdict for verdict in findings_of(trajectory) if verdict.gives == trajectory_status(trajectory)), None
    )


def tips(trajectory: Trajectory) -> list[str]:
    """What to try, for the status first."""
    last = advice_at_end(trajectory) if lead(trajectory) is None and trajectory_status(trajectory) != "healthy" else ""
    return [tip for tip in dict.fromkeys((last, *(verdict.advice for verdict in findings_of(trajectory)))) if tip]


def code(trajectory: Trajectory) -> str:
    """Of the rule that gives the status; empty where there is none."""
    first, last = lead(trajectory), last_judged_point(trajectory)
    if first is None and trajectory_status(trajectory) != "healthy" and last is not None and last.findings:
        return last.findings[0]
    return first.code if first is not None else ""


def title(trajectory: Trajectory) -> str:
    """`✗ VANISHING  GS501`."""
    look = STATUSES[trajectory_status(trajectory)]
    return f"{look.sign} {look.word}  {code(trajectory)}".rstrip()


def heading(trajectory: Trajectory) -> str:
    """`ckpt/*.pt · 12 checkpoints · steps 0 to 4000 · T=100 · needs lag 50`."""
    points, head = trajectory.points, trajectory.head
    noun = "checkpoint" if head.origin == "checkpoints" else "point"
    pieces = [head.name, f"{len(points)} {noun}{'' if len(points) == 1 else 's'}"]
    if points:
        pieces.append(f"steps {points[0].step} to {points[-1].step}")
        lead = leading(trajectory)
        lengths = {point.length for point in lead if point.length}
        pieces += [f"T={lengths.pop()}"] if len(lengths) == 1 else []
        pieces += [f"layer {lead[-1].layer}"] if lead[-1].layer else []
    pieces += [f"needs lag {head.needed_lag}"] if head.needed_lag is not None else []
    return " · ".join(pieces)


def sentences(trajectory: Trajectory) -> list[str]:
    """What happened: the finding that gives the status, else how the run ended."""
    first = lead(trajectory)
    if first is not None:
        return [first.message]
    points = leading(trajectory)
    if not points:
        return ["Nothing was measured."]
    last = points[-1]
    lag = f" lags, {last.needed_lag} needed" if last.needed_lag is not None else " lags"
    reach = f"It ends with a reach of {last.reach}{lag}" if last.reach is not None else "It ends without a reach"
    share = "" if last.gradient_share is None else f"; lag {last.needed_lag} gets {numbers.share(last.gradient_share)}"
    opened, end = _opened(trajectory, points), last_judged_point(trajectory)
    why = end.message if end is not None and end.status != "healthy" else ""
    return [f"{reach}{share} of the signal." if share else f"{reach}.", *(said for said in (opened, why) if said)]


def _opened(trajectory: Trajectory, points: Sequence[Point]) -> str:
    """When the reach first came to the needed lag, where it began short of it."""
    lag = trajectory.head.needed_lag
    short = [point for point in points if point.reach is not None]
    if lag is None or not short or (short[0].reach or 0) >= lag:
        return ""
    first = next((point for point in short if (point.reach or 0) >= lag), None)
    return "" if first is None else f"It began with {short[0].reach} and first reached lag {lag} at step {first.step}."


def moves(trajectory: Trajectory) -> list[tuple[str, str]]:
    """Where the status changed, and what changed in the weights there: (head, what)."""
    told = []
    for old, new in changes_of_status(leading(trajectory)):
        same = f"{new.status}, reach {old.reach} → {new.reach}"
        head = f"step {old.step} → {new.step}: {same if old.status == new.status else f'{old.status} → {new.status}'}"
        head += f" ({new.source})" if new.source else ""
        told.append((head, "; ".join(change(one) for one in new.changes)))
    return told


def change(one: Change) -> str:
    """`rnn.weight_hh_l0 moved by 61 % of itself (norm 8.1 → 11.9)`."""
    before, after = numbers.plain(one.before), numbers.plain(one.after)
    if one.measure == "mean":
        return f"{one.name} {before} → {after}"
    if one.moved is None:
        return f"{one.name} left zero (norm {after})"
    return f"{one.name} moved by {numbers.percent(one.moved)} of itself (norm {before} → {after})"


def clipping(trajectory: Trajectory) -> str:
    """`clipping acted at 40 of 52 measured updates (77 %), leaving 0.12 of the norm (median)`."""
    acted, known, factor = clipped_share(list(trajectory.points))
    if not known:
        return ""
    if not acted:
        return f"norms of dL/dW are raw: no clipping acted at {known} measured updates"
    part = f"{numbers.percent(acted / known)}"
    left = numbers.percent(10**factor) if factor > -300 else "nothing"
    return f"clipping acted at {acted} of {known} measured updates ({part}) and left {left} of the norm (median)"


def underflow(trajectory: Trajectory) -> str:
    """From which lag on the gradient of a float32 training is exactly zero."""
    below = [p for p in leading(trajectory) if p.below_float32 is not None]
    if not below:
        return ""
    worst = min(below, key=lambda point: point.below_float32 or 0)
    return f"below float32 from lag {worst.below_float32} on at step {worst.step}: in training that gradient is 0"


def overhead(trajectory: Trajectory) -> str:
    """What measuring cost."""
    part = trajectory.overhead
    if part is None:
        return ""
    spent = sum(point.seconds for point in trajectory.points if point.seconds is not None)
    said = f"measuring took {numbers.percent(part)} of the training's time ({numbers.plain(spent, 2)} s)"
    if part <= TOLERATED:
        return said
    # The first steps are measured whatever every= is, and a short training has no others.
    every, steps = trajectory.head.every or 1, {point.step for point in trajectory.points}
    regular = [step for step in steps if step and step % every == 0]
    remedy = "raise every=" if len(regular) > len(steps) / 2 else "the first steps are measured most, so it falls later"
    return f"{said}: more than {numbers.percent(TOLERATED)}; {remedy}"


def telling(trajectory: Trajectory, steps: str, between: tuple[int, int | None] | None) -> list[Point]:
    """The points that have a row: all, those of a range, or ends, changes of status and extremes."""
    points = trajectory.points
    if steps == "all" or (between is None and len(points) <= FEW):
        return list(points)
    if between is not None:
        first, last = between
        return [point for point in points if point.step >= first and (last is None or point.step <= last)]
    lead = leading(trajectory)
    wanted = {points[0].step, points[-1].step, lead[0].step, lead[-1].step}
    wanted |= {point.step for pair in changes_of_status(points)[:3] for point in pair}
    known = [point for point in lead if point.reach is not None]
    if known:
        wanted |= {min(known, key=lambda p: p.reach or 0).step, max(known, key=lambda p: p.reach or 0).step}
    wanted |= {lead[place * (len(lead) - 1) // 4].step for place in range(5)}
    found = [point for point in points if point.step in wanted]
    if len(found) > 2 * FEW:
        # Too many layers for all of them: the one that leads, and the last step of the others.
        found = [point for point in found if point.layer == lead[-1].layer or point.step == points[-1].step]
    return found


def layers(trajectory: Trajectory) -> list[str]:
    """The layers that were measured, in the order of the model."""
    known = dict.fromkeys((*trajectory.head.layers, *(point.layer for point in trajectory.points)))
    measured = {point.layer for point in trajectory.points}
    return [layer for layer in known if layer in measured]


def grid(trajectory: Trajectory, points: Sequence[Point]) -> tuple[list[str], list[list[str]]]:
    """The heads and rows of a table of points; with a column for the layer where there are several."""
    heads, rows = [*HEADS], [cells(point) for point in points]
    if len(layers(trajectory)) > 1:
        heads.insert(LAYER, "layer")
        for row, point in zip(rows, points, strict=True):
            row.insert(LAYER, point.layer)
    return heads, rows


def cells(point: Point) -> list[str]:
    """A row of the table, in the order of `HEADS`."""
    norms = point.norms
    raw = "" if norms is None or norms.log10_raw is None else numbers.readable(norms.log10_raw)
    clipped = "" if norms is None or norms.log10_clipped is None else numbers.readable(norms.log10_clipped)
    reach = "" if point.reach is None else f"{point.reach}/{point.needed_lag}" if point.needed_lag else str(point.reach)
    share = "" if point.gradient_share is None else numbers.share(point.gradient_share)
    return [
        str(point.step),
        point.status or "",
        point.source or ("whole" if point.kind == "analysis" else "signal"),
        share,
        reach,
        _number(point.rate),
        _number(point.lyapunov),
        _number(point.loss),
        raw,
        clipped,
    ]


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return "0" if abs(value) < TINY else numbers.plain(value)


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

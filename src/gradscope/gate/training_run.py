"""A target that is a training run: judged by the rules of training, held to its limits by how it ended."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gradscope.errors import UsageError
from gradscope.flow_file import SUFFIX, read_flow
from gradscope.gate.limits import verdict
from gradscope.records import Loaded, Location, ModelResult, RunSpec, Series, Severity, Summary, Verdict
from gradscope.registry import RULES, load
from gradscope.rules.gs5_training import stated_lag
from gradscope.rules.gs9_gate import UNMEASURED
from gradscope.rules.judge import (
    advice_at_end,
    is_chosen,
    last_judged_point,
    trajectory_status,
    trajectory_with_verdicts,
)
from gradscope.trajectory import Point, Trajectory, leading

SHORT = "GS104"
"""The rule of a reach that ends before the needed lag."""


def is_run(word: str) -> bool:
    """Whether a model word names a file of lines of a training run."""
    return word.lower().endswith(SUFFIX)


def result_of_run(path: str, name: str, spec: RunSpec, location: Location | None) -> tuple[ModelResult, dict[str, str]]:
    """The end of a run as a result, with the verdicts over all of it, and what it was measured with.

    Raises:
        UsageError: no trajectory, or a lag that its sequences do not have.
    """
    recorded = read_flow(path)
    longest = max((point.length for point in recorded.points if point.length is not None), default=None)
    if spec.needs_lag is not None and longest is not None and spec.needs_lag >= longest:
        raise UsageError(
            f"--needs-lag {spec.needs_lag} is outside 1..{longest - 1} (the run has sequences of {longest} steps); "
            "use a lag within it"
        )
    trajectory = trajectory_with_verdicts(
        recorded if spec.needs_lag is None else asked_for(recorded, spec.needs_lag), spec
    )
    trajectory = _by_chosen_rules(trajectory, spec)
    points = leading(trajectory)
    last = points[-1] if points else None
    result = ModelResult(
        name=name,
        kind="recurrent",
        status=trajectory_status(trajectory),
        size=0,
        length=(last.length or 0) if last is not None else 0,
        loaded=Loaded(path, location=location, trained=True),
        summary=_summary(last),
        series=Series(),
        skipped={} if last is not None else {"reach": "the run holds no point"},
        verdicts=(*verdicts_at_end(trajectory, spec), *trajectory.verdicts),
        heading=f"training run, step {last.step}" if last is not None else "training run",
        notes=trajectory.notes,
    )
    return result, dict(trajectory.head.environment)


def asked_for(trajectory: Trajectory, lag: int) -> Trajectory:
    """The run as it stands towards a lag that is asked for now.

    A point's status is about the lag that was needed when it was measured. Of another one the reach tells: as far as
    it, or not; what else the point says (growth, NaN, a cut) holds for every lag.
    """
    unsaid: dict[str, Any] = {"findings": (), "message": "", "advice": ""}

    def asked(point: Point) -> Point:
        about_lag = point.status in ("healthy", "vanishing", "inconclusive")
        if not about_lag or point.reach is None or point.needed_lag == lag:
            return point
        moved = replace(point, needed_lag=lag, gradient_share=None)
        if point.reach >= lag:
            return moved if point.status == "healthy" else replace(moved, status="healthy", **unsaid)
        if point.status == "vanishing":
            return moved
        return moved if point.status == "inconclusive" else replace(moved, status="inconclusive", **unsaid)

    points = tuple(map(asked, trajectory.points))
    lags = sorted({point.needed_lag for point in trajectory.points if point.needed_lag not in (None, lag)})
    note = f"measured for lag {', '.join(map(str, lags))}, asked for lag {lag}: the reach alone decides"
    notes = (*trajectory.notes, note) if lags else trajectory.notes
    return replace(trajectory, points=points, head=replace(trajectory.head, needed_lag=lag), notes=notes)


def _by_chosen_rules(trajectory: Trajectory, spec: RunSpec) -> Trajectory:
    """The run with the findings of its points that `select` and `ignore` leave; a status that rests on none is open."""

    def left(point: Point) -> Point:
        codes = tuple(code for code in point.findings if is_chosen(code, spec))
        if codes == point.findings:
            return point
        if not codes:
            return replace(point, status="inconclusive", findings=(), message="", advice="")
        if codes[0] == point.findings[0]:
            return replace(point, findings=codes)
        title = load(RULES[codes[0]]).title if codes[0] in RULES else codes[0]
        return replace(point, findings=codes, message=f"{title}.", advice="")

    return replace(trajectory, points=tuple(map(left, trajectory.points)))


def _summary(last: Point | None) -> Summary:
    if last is None:
        return Summary()
    return Summary(
        rate=last.rate,
        reach=last.reach,
        gradient_share=last.gradient_share,
        needed_lag=last.needed_lag,
        lyapunov=None if last.lyapunov is None else (last.lyapunov,),
        non_finite=last.non_finite,
    )


def verdicts_at_end(trajectory: Trajectory, spec: RunSpec) -> tuple[Verdict, ...]:
    """What the last point's own status rests on, as a verdict with the force that its rule has here; none if fine."""
    last = last_judged_point(trajectory)
    if not trajectory.points:
        return (verdict(UNMEASURED, "fail", "Not measured: the run holds no point."),)
    lag = stated_lag(trajectory, spec)
    if last is not None and last.status == "inconclusive" and is_chosen(SHORT, spec):
        last = _short(last, lag)
    if last is None or not last.findings or not last.message or last.findings[0] not in RULES:
        return ()
    rule = load(RULES[last.findings[0]])
    softened = rule.needs_stated_lag and (lag is None or last.status == "inconclusive")
    severity: Severity = "warning" if softened else rule.severity
    return (
        Verdict(
            code=rule.code,
            title=rule.title,
            severity=severity,
            status="fail" if severity == "error" else "warn",
            message=f"At the end, step {last.step}: {last.message}",
            advice=advice_at_end(trajectory),
            gives=last.status,
        ),
    )


def _short(point: Point, lag: int | None) -> Point:
    """An inconclusive point with the finding of a reach that is short of the stated lag, as an analysis has it."""
    if lag is None or point.findings or point.reach is None or point.reach >= lag:
        return point
    message = f"Beyond lag {point.reach} of {lag} no step has even 1 % of the influence of the newest lagged one."
    return replace(point, findings=(SHORT,), message=message)

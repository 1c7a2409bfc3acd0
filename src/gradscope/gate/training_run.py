"""A target that is a training run: judged by the rules of training, held to its limits by how it ended."""

from __future__ import annotations

from dataclasses import replace

from gradscope.flow_file import SUFFIX, read_flow
from gradscope.gate.verdict import verdict
from gradscope.records import Loaded, Location, ModelResult, RunSpec, Series, Severity, Status, Summary, Verdict
from gradscope.registry import RULES, load
from gradscope.rules.gate import UNMEASURED
from gradscope.rules.training.judge import judged, status_of
from gradscope.rules.training.rule import stated_lag
from gradscope.trajectory import Point, Trajectory, leading


def is_run(word: str) -> bool:
    """Whether a model word names a file of lines of a training run."""
    return word.lower().endswith(SUFFIX)


def result_of_run(path: str, name: str, spec: RunSpec, location: Location | None) -> tuple[ModelResult, dict[str, str]]:
    """The end of a run as a result, with the verdicts over all of it, and what it was measured with.

    Raises:
        UsageError: no trajectory, or one without a point.
    """
    recorded = read_flow(path)
    trajectory = judged(recorded if spec.needs_lag is None else asked_for(recorded, spec.needs_lag), spec)
    points = leading(trajectory)
    last = points[-1] if points else None
    result = ModelResult(
        name=name,
        kind="recurrent",
        status=status_of(trajectory),
        size=0,
        length=(last.length or 0) if last is not None else 0,
        loaded=Loaded(path, location=location, trained=True),
        summary=_summary(last),
        series=Series(),
        skipped={} if last is not None else {"reach": "the run holds no point"},
        verdicts=(*_ended(trajectory, spec), *trajectory.verdicts),
        heading=f"training run, step {last.step}" if last is not None else "training run",
        notes=trajectory.notes,
    )
    return result, dict(trajectory.head.environment)


def asked_for(trajectory: Trajectory, lag: int) -> Trajectory:
    """The run as it stands towards a lag that is asked for now.

    A point's status is about the lag that was needed when it was measured. Of another one the reach tells: as far as
    it, or not; what else the point says (growth, NaN, a cut) holds for every lag.
    """

    def asked(point: Point) -> Point:
        about_lag = point.status in ("healthy", "vanishing", "inconclusive")
        if not about_lag or point.reach is None or point.needed_lag == lag:
            return point
        reaches = point.reach >= lag
        status: Status | None = "healthy" if reaches else "inconclusive" if point.status == "healthy" else point.status
        moved = replace(point, status=status, needed_lag=lag, gradient_share=None)
        return moved if status == point.status else replace(moved, findings=(), message="")

    points = tuple(map(asked, trajectory.points))
    lags = sorted({point.needed_lag for point in trajectory.points if point.needed_lag not in (None, lag)})
    note = f"measured for lag {', '.join(map(str, lags))}, asked for lag {lag}: the reach alone decides"
    notes = (*trajectory.notes, note) if lags else trajectory.notes
    return replace(trajectory, points=points, head=replace(trajectory.head, needed_lag=lag), notes=notes)


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


def _ended(trajectory: Trajectory, spec: RunSpec) -> tuple[Verdict, ...]:
    """What the last point's own status rests on, as a verdict with the force that its rule has here."""
    last = next((point for point in reversed(trajectory.points) if point.status is not None), None)
    if not trajectory.points:
        return (verdict(UNMEASURED, "fail", "Not measured: the run holds no point."),)
    if last is None or not last.findings or not last.message or last.findings[0] not in RULES:
        return ()
    rule = load(RULES[last.findings[0]])
    softened = rule.needs_stated_lag and stated_lag(trajectory, spec) is None
    severity: Severity = "warning" if softened else rule.severity
    return (
        Verdict(
            code=rule.code,
            title=rule.title,
            severity=severity,
            status="fail" if severity == "error" else "warn",
            message=f"At the end, step {last.step}: {last.message}",
            gives=last.status,
        ),
    )

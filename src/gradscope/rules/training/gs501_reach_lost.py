"""GS501: the reach fell below the needed lag during training."""

from __future__ import annotations

from gradscope.records import RunSpec
from gradscope.rules import papers
from gradscope.rules.rule import Finding
from gradscope.rules.training.rule import TrainingRule, asked_lag, where, with_reach, without_reach
from gradscope.trajectory import Point, Trajectory

EARLY = 20
"""A step in the first of so many parts of a run is no point to go back to."""


def _judge(trajectory: Trajectory, spec: RunSpec) -> Finding:
    """Find the last stretch of points below K, and whether any before it was not."""
    points = with_reach(trajectory, spec)
    if not points:
        return Finding("skip", without_reach(trajectory, spec))
    enough = [(point.reach or 0) >= asked_lag(trajectory, spec, point) for point in points]
    last, lag = points[-1], asked_lag(trajectory, spec, points[-1])
    if enough[-1]:
        dips = [point for point, kept in zip(points, enough, strict=True) if not kept]
        came = f" It was short of that at {len(dips)} points, last at {where(dips[-1])}." if dips else ""
        return Finding("pass", f"The reach ends at {last.reach} lags; {lag} are needed.{came}", measured=last.reach)
    if not any(enough):
        return Finding("pass", f"The reach was never as far as the needed lag {lag}, so it did not fall below it.")
    place = len(enough) - enough[::-1].index(True)
    lost, kept = points[place], points[place - 1]
    return Finding(
        "found",
        f"The reach fell from {kept.reach} lags at {where(kept)} to {lost.reach} at {where(lost)}: below the {lag} "
        f"that are needed; it ends at {last.reach}.",
        _advice(kept, lost, last),
        first_step=lost.step,
        last_step=last.step,
        measured=last.reach,
        threshold=lag,
    )


def _advice(kept: Point, lost: Point, last: Point) -> str:
    """Go back to what was kept, where something had been learned by then."""
    if kept.step * EARLY < last.step:
        return (
            f"It fell within the first {lost.step} steps, before there was much to go back to: start with a smaller "
            "learning rate, or warm it up, and clip the gradient. If the loss went on falling, ask whether the task "
            "needs that lag."
        )
    return (
        f"Go back to {where(kept)} and train on from there with a lower learning rate or a clipped gradient; what "
        "changed in the weights between the two is shown with the run."
    )


RULE = TrainingRule(
    code="GS501",
    title="reach lost during training",
    severity="error",
    judge=_judge,
    gives="vanishing",
    needs_stated_lag=True,
    what=(
        "A model that could learn from the needed lag when training began, or later, and no longer can. Nothing in the "
        "loss shows it at once: what was learned stays a while, and only what is still to be learned is lost."
    ),
    maths=(
        "reach(n) = largest k with I_n(k) ≥ 0.01 · I_n(1), I_n the influence after n updates",
        "K is the needed lag",
        "found when reach(m) ≥ K for some m and reach(n) < K from some n > m to the end",
    ),
    measured=(
        "At every point of the trajectory, as GS104 does for one report: signals of the layer that ends with the least "
        "reach where there are any, else whole analyses. Sequences that end before the needed lag do not count. A run "
        "that comes back is no finding; its dips are counted."
    ),
    remedies=(
        "Find the step and what moved there: `gradscope show flow.jsonl`",
        "Lower the learning rate or clip the norm of the gradient before the step at which it fell",
        "Hold the recurrent matrix to what keeps norms (orthogonal parametrization), or use a gated cell",
    ),
    papers=(papers.PASCANU_2013,),
)

"""GS505: in the whole run, nothing older than so many steps was ever learned from."""

from __future__ import annotations

from gradscope.records import RunSpec
from gradscope.rules import papers
from gradscope.rules.rule import Finding
from gradscope.rules.training.rule import TrainingRule, asked_lag, where, with_reach, without_reach
from gradscope.trajectory import Trajectory


def _judge(trajectory: Trajectory, spec: RunSpec) -> Finding:
    """Compare the largest reach of the run with K."""
    points = with_reach(trajectory, spec)
    if not points:
        return Finding("skip", without_reach(trajectory, spec))
    best = max(points, key=lambda point: point.reach or 0)
    lag = asked_lag(trajectory, spec, best)
    if (best.reach or 0) >= lag:
        return Finding("pass", f"At {where(best)} the reach was {best.reach} lags; {lag} are needed.")
    return Finding(
        "found",
        f"Nothing older than {best.reach} steps was ever learned from: that was the reach at {where(best)}, the "
        f"farthest of {len(points)} points; {lag} are needed.",
        "Ask first whether the task needs it: train a copy on shorter windows and compare validation losses. If it "
        "does, start from gates that stay open, or let short lags occur too; a longer reach can cost loss elsewhere, "
        "so judge it by the validation loss as well.",
        first_step=points[0].step,
        last_step=points[-1].step,
        measured=best.reach,
        threshold=lag,
    )


RULE = TrainingRule(
    code="GS505",
    title="nothing old was ever learned from",
    severity="error",
    judge=_judge,
    gives="vanishing",
    needs_stated_lag=True,
    what=(
        "At no measured step of the training did the gradient reach the needed lag. Whatever the loss did, it was not "
        "by learning what is that far back; where short lags occur in the data too, the reach may still open later."
    ),
    maths=(
        "reach(n) = largest k with I_n(k) ≥ 0.01 · I_n(1) after n updates",
        "best = max over n of reach(n)",
        "found when best < K",
    ),
    measured=(
        "Over the leading points of the trajectory: signals of the layer that ends with the least reach, else whole "
        "analyses; not over sequences that end before the needed lag. Between the points nothing is known; the outcome "
        "is of this run, so far."
    ),
    remedies=(
        "Start from gates that stay open: `gradscope compare lstm:forget_bias=5 gru:update_bias=5 lru`; a longer reach "
        "is not a lower loss, so compare validation losses",
        "Let short lags teach the gates first: a curriculum of lengths, or a loss at every step",
        "Check that nothing cuts the gradient: `gradscope explain GS401`",
    ),
    papers=(papers.BENGIO_1994, papers.JOZEFOWICZ_2015),
)

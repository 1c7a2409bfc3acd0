"""GS504: the first value of the training run that is not finite."""

from __future__ import annotations

import math

from gradscope.records import RunSpec
from gradscope.rules import papers
from gradscope.rules.rule import Finding
from gradscope.rules.training.rule import TrainingRule, where
from gradscope.trajectory import Point, Trajectory


def _judge(trajectory: Trajectory, spec: RunSpec) -> Finding:
    """The first point with a value that is not finite, and what it says of the place."""
    if not trajectory.points:
        return Finding("skip", "nothing was measured")
    found = next((point for point in trajectory.points if _what(point)), None)
    if found is None:
        return Finding("pass", f"All values are finite at {len(trajectory.points)} points.")
    before = [point.step for point in trajectory.points if point.step < found.step]
    since = f" All was finite at step {max(before)}." if before else ""
    # A whole analysis at the same step knows the place better than a norm does.
    same = [point for point in trajectory.points if point.step == found.step and point.non_finite is not None]
    told = same[0] if same else found
    return Finding(
        "found",
        f"{_what(told)} first at {where(found)}.{since}",
        _advice(trajectory, found),
        first_step=found.step,
        measured=float(found.step),
    )


def _advice(trajectory: Trajectory, found: Point) -> str:
    """Where to look: at the recurrence, where its gradient was exploding when it was last known."""
    earlier = any(point.step < found.step for point in trajectory.points)
    back = "Go back to the last finite checkpoint" if earlier else "Start again"
    known = [p for p in trajectory.points if p.step <= found.step and p.status not in (None, "non-finite")]
    if known and known[-1].status == "exploding":
        return (
            f"{back} and tame the recurrence, whose gradient was exploding: smaller recurrent weights, an orthogonal "
            "matrix, or a norm inside it. Clipping alone does not help where the forward pass overflows."
        )
    return (
        f"{back}; clip the norm of the gradient, lower the learning rate, and look for a logarithm, division or "
        "exponential without a floor."
    )


def _what(point: Point) -> str:
    """What is not finite at a point, as the beginning of a sentence; empty where all is."""
    place = point.non_finite
    if place is not None:
        value = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(place.value, place.value)
        return f"{value} in {place.where} of {place.layer} at step {place.step} of the sequence"
    if point.loss is not None and not math.isfinite(point.loss):
        return f"The loss is {point.loss}"
    norms = point.norms
    if norms is not None and any(v is not None and (math.isnan(v) or v == math.inf) for v in (norms.log10_raw,)):
        return "The gradient is not finite"
    return ""


RULE = TrainingRule(
    code="GS504",
    title="first value that is not finite",
    severity="error",
    judge=_judge,
    gives="non-finite",
    what=(
        "NaN and Inf never heal: from the update that takes them in, all weights are lost. What matters is the first "
        "one: at which step of the training, and in which layer, gate and step of the sequence."
    ),
    maths=(
        "NaN + a = NaN, Inf − Inf = NaN, 0 · Inf = NaN",
        "one NaN in dL/dW makes the whole clipped gradient NaN: g / ‖g‖ = NaN",
        "found when the loss, the gradient, a weight or a state is not finite at any point",
    ),
    measured=(
        "Loss and norm of the gradient at every measured step; layer, gate and step of the sequence from the whole "
        "analysis that follows. Skipped updates of a loss scaler are no finding: their gradient is never applied."
    ),
    remedies=(
        "Analyse the checkpoint before it: `gradscope analyze weights.pt --input batch.npy`",
        "Clip the norm of the gradient and lower the learning rate",
        "Compute what overflows in float32 where the rest is in half precision",
    ),
    papers=(papers.PASCANU_2013, papers.MICIKEVICIUS_2018),
)

"""GS503: clipping turns the gradient into another direction."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from gradscope.records import RunSpec
from gradscope.rules import papers
from gradscope.rules.rule import Finding, Threshold
from gradscope.rules.training.rule import TrainingRule
from gradscope.rules.wording import percent
from gradscope.trajectory import Norms, Point, Trajectory

FEWEST = 3
"""Points that a judgement needs."""
NOTICED = 1e-3
"""log10: a smaller difference between raw and clipped norms is rounding."""


def is_clipped(norms: Norms) -> bool:
    """Whether clipping changed the length of a gradient."""
    raw, clipped = norms.log10_raw, norms.log10_clipped
    return raw is not None and clipped is not None and raw - clipped > NOTICED


def updates(points: Iterable[Point]) -> list[Point]:
    """One point of every update whose gradient was measured: all layers of an optimizer tell of the same one."""
    return [*{(point.step, repr(point.norms)): point for point in points if point.norms is not None}.values()]


def clipped_share(points: list[Point]) -> tuple[int, int, float]:
    """(updates at which clipping acted, updates measured, median log10 of the factor it left where it acted)."""
    every = [point.norms for point in updates(points) if point.norms is not None]
    known = [norms for norms in every if None not in (norms.log10_raw, norms.log10_clipped)]
    acted = [norms for norms in known if is_clipped(norms)]
    factors = [(norms.log10_clipped or 0.0) - (norms.log10_raw or 0.0) for norms in acted]
    return len(acted), len(known), statistics.median(factors) if factors else 0.0


def _judge(trajectory: Trajectory, spec: RunSpec) -> Finding:
    """Median cosine between raw and clipped gradient over the last half of the updates at which clipping acted."""
    points = [p for p in updates(trajectory.points) if p.norms is not None and p.norms.cosine is not None]
    acted = [p for p in points if p.norms is not None and is_clipped(p.norms)]
    if len(points) < FEWEST:
        return Finding("skip", "the gradient before and after clipping was measured at fewer than 3 steps")
    if len(acted) < FEWEST:
        return Finding("pass", f"Clipping acted at {len(acted)} of {len(points)} measured updates.")
    late = acted[-max(FEWEST, len(acted) // 2) :]
    cosine = statistics.median(p.norms.cosine for p in late if p.norms is not None and p.norms.cosine is not None)
    wanted = RULE.limit(spec, "clip_cosine")
    said = f"Clipping acted at {percent(len(acted) / len(points))} of the measured updates"
    if cosine >= wanted:
        return Finding("pass", f"{said} and kept the direction (cosine {cosine:.2f}).", measured=cosine)
    return Finding(
        "found",
        f"{said} and turned the gradient: the cosine between the clipped and the raw one is {cosine:.2f}, so "
        f"{percent(1 - max(cosine, 0.0) ** 2)} of what is applied points elsewhere.",
        "Clip the norm of the whole gradient (`torch.nn.utils.clip_grad_norm_`), which keeps its direction, instead of "
        "its values or each layer by itself; or raise the limit.",
        first_step=late[0].step,
        last_step=late[-1].step,
        measured=cosine,
        threshold=wanted,
    )


RULE = TrainingRule(
    code="GS503",
    title="clipping removes most of the direction",
    severity="warning",
    judge=_judge,
    thresholds={"clip_cosine": Threshold(0.5, "cosine", "how much of its direction a clipped gradient keeps", -1, 1)},
    what=(
        "Clipping the norm of the whole gradient shortens it and keeps its direction. Clipping values, or one layer at "
        "a time, flattens the large components and leaves the small ones: where it acts most of the time, what is "
        "applied is hardly the gradient any more, and the long lags, which show in few components, go first."
    ),
    maths=(
        "g the gradient of one update before clipping, g' after it, over the watched layers",
        "cos = ⟨g, g'⟩ / (‖g‖ ‖g'‖);  1 − cos² is the part of g' that is not along g",
        "found when the median cos over the late updates where clipping acted is below 0.5",
    ),
    measured=(
        "At the steps that a Monitor measures. The raw gradient is read when the last backward pass of the update has "
        "accumulated it, the clipped one when the optimizer has used it; the loss scale of mixed precision is divided "
        "out of both."
    ),
    remedies=(
        "`torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)` in place of `clip_grad_value_`",
        "Raise the limit until clipping acts at a few percent of the updates",
        "Bring the gradient itself down: `gradscope explain GS201`",
    ),
    papers=(papers.PASCANU_2013,),
)

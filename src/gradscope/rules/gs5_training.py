"""GS5xx: what a whole training run shows, and no single report can."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable

from gradscope.records import RunSpec
from gradscope.rules.rule import Finding, Threshold, TrainingRule
from gradscope.rules.wording import factor, percent
from gradscope.text import counted
from gradscope.trajectory import Norms, Point, Trajectory, is_cut, leading, longest_lag

PARTS_OF_RUN = 20
"""A step in the first of so many parts of a run is no point to go back to."""
FEWEST_POINTS = 3
"""Updates that a judgement of clipping needs."""
NOTICEABLE = 1e-3
"""log10: a smaller difference between raw and clipped norms is rounding."""


def stated_lag(trajectory: Trajectory, spec: RunSpec) -> int | None:
    """How far back the user says the task must reach: now, else when the run was recorded."""
    return spec.needs_lag if spec.needs_lag is not None else trajectory.head.needed_lag


def needed_lag_at(trajectory: Trajectory, spec: RunSpec, point: Point) -> int:
    """K at a point: the stated lag, else all that lies before the newest output the loss reads."""
    stated = stated_lag(trajectory, spec)
    if stated is not None:
        return stated
    return point.needed_lag if point.needed_lag is not None else max((point.length or 2) - 1, 1)


def points_with_reach(trajectory: Trajectory, spec: RunSpec) -> list[Point]:
    """The leading points whose reach is known, in sequences that the needed lag fits into."""
    stated = stated_lag(trajectory, spec)
    return [point for point in leading(trajectory) if point.reach is not None and not is_cut(point, stated)]


def why_no_reach(trajectory: Trajectory, spec: RunSpec) -> str:
    """Why no point is left."""
    longest = max((longest_lag(point) for point in leading(trajectory) if point.reach is not None), default=None)
    if longest is None:
        return "no point has a reach"
    return f"lag {stated_lag(trajectory, spec)} is needed, and no gradient goes back more than {longest} steps anywhere"


def point_label(point: Point) -> str:
    """`step 400`, or `step 400 (ckpt_400.pt)`."""
    return f"step {point.step}" + (f" ({point.source})" if point.source else "")


def _judge_reach_lost(trajectory: Trajectory, spec: RunSpec) -> Finding:
    """Find the last stretch of points below K, and whether any before it reached farther."""
    points = points_with_reach(trajectory, spec)
    if not points:
        return Finding("skip", why_no_reach(trajectory, spec))
    needed = [needed_lag_at(trajectory, spec, point) for point in points]
    is_enough = [(point.reach or 0) >= lag for point, lag in zip(points, needed, strict=True)]
    last = points[-1]
    if is_enough[-1]:
        dips = [point for point, kept in zip(points, is_enough, strict=True) if not kept]
        dips_note = (
            f" It was short of that at {counted(len(dips), 'point')}, last at {point_label(dips[-1])}." if dips else ""
        )
        return Finding(
            "pass",
            f"The reach ends at {counted(last.reach or 0, 'lag')}; {needed[-1]} are needed.{dips_note}",
            measured=last.reach,
        )
    if not any(is_enough):
        return Finding(
            "pass", f"The reach was never as far as the needed lag {needed[-1]}, so it did not fall below it."
        )
    stretch = range(len(is_enough) - is_enough[::-1].index(True), len(points))
    fall = next((fall for at in stretch if (fall := _fall_to(points, needed, is_enough, at))), None)
    if fall is None:
        return Finding(
            "pass",
            f"The reach fell below none that it had before: {last.reach} lags at {point_label(last)} are short of the "
            f"{needed[-1]} of sequences that are longer than those whose every lag it covered.",
            measured=last.reach,
        )
    kept, lost, lag = fall
    return Finding(
        "found",
        f"The reach fell from {counted(kept.reach or 0, 'lag')} at {point_label(kept)} to {lost.reach} at "
        f"{point_label(lost)}: below the {lag} that are needed; it ends at {last.reach}.",
        _reach_lost_advice(kept, lost, last),
        first_step=lost.step,
        last_step=last.step,
        measured=last.reach,
        threshold=lag,
    )


def _fall_to(points: list[Point], needed: list[int], is_enough: list[bool], at: int) -> tuple[Point, Point, int] | None:
    """(newest point before that reached farther, this one, the lag that it lost); None where it lost none.

    Sequences differ in length where no lag is stated: what counts is a lag that both of two points have.
    """
    for before in range(at - 1, -1, -1):
        lag = min(needed[before], needed[at])
        if is_enough[before] and (points[at].reach or 0) < lag:
            return points[before], points[at], lag
    return None


def _reach_lost_advice(kept: Point, lost: Point, last: Point) -> str:
    """Go back to what was kept, where something had been learned by then."""
    if kept.step * PARTS_OF_RUN < last.step:
        return (
            f"It fell within the first {lost.step} steps, before there was much to go back to: start with a smaller "
            "learning rate, or warm it up, and clip the gradient. If the loss went on falling, ask whether the task "
            "needs that lag."
        )
    return (
        f"Go back to {point_label(kept)} and train on from there with a lower learning rate or a clipped gradient; "
        "what changed in the weights between the two is shown with the run."
    )


REACH_LOST = TrainingRule(
    code="GS501",
    judge=_judge_reach_lost,
    status_if_found="vanishing",
    needs_stated_lag=True,
)


def _judge_share_collapse(trajectory: Trajectory, spec: RunSpec) -> Finding:
    """The largest drop between two points no farther apart than the window, or next to each other."""
    points = [p for p in leading(trajectory) if p.gradient_share is not None and not math.isnan(p.gradient_share)]
    if len(points) < 2:
        return Finding("skip", "fewer than two points have a gradient share")
    wanted_drop, window = SHARE_COLLAPSE.limit(spec, "collapse_drop"), SHARE_COLLAPSE.limit(spec, "collapse_window")
    pairs = _pairs_within_window(points, window)
    if not pairs:
        return Finding("skip", "no two points have a gradient share at the same lag")
    # A collapse that lasts is told before a deeper one that healed.
    ends = {point.needed_lag: point for point in points}
    lasting = [p for p in pairs if _drop(p) >= wanted_drop and _drop((p[0], ends[p[0].needed_lag])) >= wanted_drop]
    before, after = lasting[0] if lasting else max(pairs, key=_drop)
    drop = _drop((before, after))
    if drop < wanted_drop:
        return Finding("pass", f"The share never dropped by more than {factor(max(drop, 0.0))} at once.", measured=drop)
    fall = (
        f"from 10^{before.gradient_share:.1f} at {point_label(before)} to {_share_text(after)} at {point_label(after)}"
    )
    if not lasting:
        return Finding(
            "pass", f"The gradient share dropped {fall}, and came back.", measured=drop, threshold=wanted_drop
        )
    return Finding(
        "found",
        f"The gradient share at lag {after.needed_lag} collapsed {fall}, a factor of {factor(drop)}, and stays there.",
        f"Look at what moved in the weights before {point_label(after)}, lower the learning rate and clip the norm "
        "of the gradient.",
        first_step=before.step,
        last_step=after.step,
        measured=drop,
        threshold=wanted_drop,
    )


def _pairs_within_window(points: list[Point], window: float) -> list[tuple[Point, Point]]:
    """(earlier, later) within the window; neighbours always, for checkpoints may lie farther apart.

    Shares at different lags, of batches of different length, are no pair.
    """
    pairs = []
    for position, later in enumerate(points[1:], 1):
        before = [point for point in points[:position] if point.needed_lag == later.needed_lag]
        near = [point for point in before if later.step - point.step <= window] or before[-1:]
        if near:
            pairs.append((max(near, key=_share), later))
    return pairs


def _share(point: Point) -> float:
    return point.gradient_share if point.gradient_share is not None else -math.inf


def _drop(pair: tuple[Point, Point]) -> float:
    before, after = _share(pair[0]), _share(pair[1])
    return 0.0 if before == -math.inf else before - after


def _share_text(point: Point) -> str:
    share = _share(point)
    return "zero" if share == -math.inf else f"10^{share:.1f}"


SHARE_COLLAPSE = TrainingRule(
    code="GS502",
    judge=_judge_share_collapse,
    status_if_found="vanishing",
    thresholds={
        "collapse_drop": Threshold(3.0, "log10", "how far the share must drop", low=0.0),
        "collapse_window": Threshold(1000.0, "updates", "within how many updates of the weights", low=0.0),
    },
)


def is_clipped(norms: Norms) -> bool:
    """Whether clipping changed the length of a gradient."""
    raw, clipped = norms.log10_raw, norms.log10_clipped
    return raw is not None and clipped is not None and raw - clipped > NOTICEABLE


def measured_updates(points: Iterable[Point]) -> list[Point]:
    """One point of every update whose gradient was measured: all layers of an optimizer tell of the same one."""
    return [*{(point.step, repr(point.norms)): point for point in points if point.norms is not None}.values()]


def clipped_share(points: list[Point]) -> tuple[int, int, float]:
    """(updates at which clipping acted, updates measured, median log10 of the factor it left where it acted)."""
    norms_of_updates = [point.norms for point in measured_updates(points) if point.norms is not None]
    comparable = [norms for norms in norms_of_updates if None not in (norms.log10_raw, norms.log10_clipped)]
    clipped = [norms for norms in comparable if is_clipped(norms)]
    factors = [(norms.log10_clipped or 0.0) - (norms.log10_raw or 0.0) for norms in clipped]
    return len(clipped), len(comparable), statistics.median(factors) if factors else 0.0


def _judge_clipped_direction(trajectory: Trajectory, spec: RunSpec) -> Finding:
    """Median cosine between raw and clipped gradient over the last half of the updates at which clipping acted."""
    points = [
        point
        for point in measured_updates(trajectory.points)
        if point.norms is not None and point.norms.cosine is not None
    ]
    clipped = [point for point in points if point.norms is not None and is_clipped(point.norms)]
    if len(points) < FEWEST_POINTS:
        return Finding("skip", "the gradient before and after clipping was measured at fewer than 3 steps")
    if len(clipped) < FEWEST_POINTS:
        return Finding("pass", f"Clipping acted at {len(clipped)} of {len(points)} measured updates.")
    late = clipped[-max(FEWEST_POINTS, len(clipped) // 2) :]
    cosine = statistics.median(
        point.norms.cosine for point in late if point.norms is not None and point.norms.cosine is not None
    )
    wanted_cosine = CLIPPED_DIRECTION.limit(spec, "clip_cosine")
    observed = f"Clipping acted at {percent(len(clipped) / len(points))} of the measured updates"
    if cosine >= wanted_cosine:
        return Finding("pass", f"{observed} and kept the direction (cosine {cosine:.2f}).", measured=cosine)
    return Finding(
        "found",
        f"{observed} and turned the gradient: the cosine between the clipped and the raw one is {cosine:.2f}, so "
        f"{percent(1 - max(cosine, 0.0) ** 2)} of what is applied points elsewhere.",
        "Clip the norm of the whole gradient (`torch.nn.utils.clip_grad_norm_`), which keeps its direction, instead of "
        "its values or each layer by itself; or raise the limit.",
        first_step=late[0].step,
        last_step=late[-1].step,
        measured=cosine,
        threshold=wanted_cosine,
    )


CLIPPED_DIRECTION = TrainingRule(
    code="GS503",
    judge=_judge_clipped_direction,
    thresholds={"clip_cosine": Threshold(0.5, "cosine", "how much of its direction a clipped gradient keeps", -1, 1)},
)


def _judge_first_non_finite(trajectory: Trajectory, spec: RunSpec) -> Finding:
    """The first point with a value that is not finite, and what it says of the place."""
    if not trajectory.points:
        return Finding("skip", "nothing was measured")
    first = next((point for point in trajectory.points if _non_finite_at(point)), None)
    if first is None:
        return Finding("pass", f"All values are finite at {counted(len(trajectory.points), 'point')}.")
    finite_steps = [point.step for point in trajectory.points if point.step < first.step]
    since = f" All was finite at step {max(finite_steps)}." if finite_steps else ""
    # A whole analysis at the same step knows the place better than a norm does.
    analysed = [point for point in trajectory.points if point.step == first.step and point.non_finite is not None]
    located = analysed[0] if analysed else first
    return Finding(
        "found",
        f"{_non_finite_at(located)} first at {point_label(first)}.{since}",
        _non_finite_advice(trajectory, first),
        first_step=first.step,
        measured=float(first.step),
    )


def _non_finite_advice(trajectory: Trajectory, first: Point) -> str:
    """Where to look: at the recurrence, where its gradient was exploding when it was last known."""
    earlier = any(point.step < first.step for point in trajectory.points)
    restart = "Go back to the last finite checkpoint" if earlier else "Start again"
    judged = [p for p in trajectory.points if p.step <= first.step and p.status not in (None, "non-finite")]
    if judged and judged[-1].status == "exploding":
        return (
            f"{restart} and tame the recurrence, whose gradient was exploding: smaller recurrent weights, an "
            "orthogonal matrix, or a norm inside it. Clipping alone does not help where the forward pass overflows."
        )
    return (
        f"{restart}; clip the norm of the gradient, lower the learning rate, and look for a logarithm, division or "
        "exponential without a floor."
    )


def _non_finite_at(point: Point) -> str:
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


FIRST_NON_FINITE = TrainingRule(
    code="GS504",
    judge=_judge_first_non_finite,
    status_if_found="non-finite",
)


def _judge_nothing_old_learned(trajectory: Trajectory, spec: RunSpec) -> Finding:
    """Compare the largest reach of the run with K."""
    points = points_with_reach(trajectory, spec)
    if not points:
        return Finding("skip", why_no_reach(trajectory, spec))
    best = max(points, key=lambda point: point.reach or 0)
    lag = needed_lag_at(trajectory, spec, best)
    if (best.reach or 0) >= lag:
        return Finding(
            "pass", f"At {point_label(best)} the reach was {counted(best.reach or 0, 'lag')}; {lag} are needed."
        )
    return Finding(
        "found",
        f"Nothing older than {counted(best.reach or 0, 'step')} was ever learned from: that was the reach at "
        f"{point_label(best)}, the farthest of {counted(len(points), 'point')}; {lag} are needed.",
        "Ask first whether the task needs it: train a copy on shorter windows and compare validation losses. If it "
        "does, start from gates that stay open, or let short lags occur too; a longer reach can cost loss elsewhere, "
        "so judge it by the validation loss as well.",
        first_step=points[0].step,
        last_step=points[-1].step,
        measured=best.reach,
        threshold=lag,
    )


NOTHING_OLD_LEARNED = TrainingRule(
    code="GS505",
    judge=_judge_nothing_old_learned,
    status_if_found="vanishing",
    needs_stated_lag=True,
)

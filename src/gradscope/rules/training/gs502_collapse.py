"""GS502: the gradient share collapses within a short part of training."""

from __future__ import annotations

import math

from gradscope.records import RunSpec
from gradscope.rules import papers
from gradscope.rules.rule import Finding, Threshold
from gradscope.rules.training.rule import TrainingRule, where
from gradscope.rules.wording import factor
from gradscope.trajectory import Point, Trajectory, leading


def _judge(trajectory: Trajectory, spec: RunSpec) -> Finding:
    """The largest drop between two points no farther apart than the window, or next to each other."""
    points = [p for p in leading(trajectory) if p.gradient_share is not None and not math.isnan(p.gradient_share)]
    if len(points) < 2:
        return Finding("skip", "fewer than two points have a gradient share")
    wanted, window = RULE.limit(spec, "collapse_drop"), RULE.limit(spec, "collapse_window")
    pairs = _pairs(points, window)
    if not pairs:
        return Finding("skip", "no two points have a gradient share at the same lag")
    # A collapse that lasts is told before a deeper one that healed.
    ends = {point.needed_lag: point for point in points}
    lasting = [p for p in pairs if _drop(p) >= wanted and _drop((p[0], ends[p[0].needed_lag])) >= wanted]
    high, low = lasting[0] if lasting else max(pairs, key=_drop)
    drop = _drop((high, low))
    if drop < wanted:
        return Finding("pass", f"The share never dropped by more than {factor(max(drop, 0.0))} at once.", measured=drop)
    fell = f"from 10^{high.gradient_share:.1f} at {where(high)} to {_shown(low)} at {where(low)}"
    if not lasting:
        return Finding("pass", f"The gradient share dropped {fell}, and came back.", measured=drop, threshold=wanted)
    return Finding(
        "found",
        f"The gradient share at lag {low.needed_lag} collapsed {fell}, a factor of {factor(drop)}, and stays there.",
        f"Look at what moved in the weights before {where(low)}, lower the learning rate and clip the norm of the "
        f"gradient.",
        first_step=high.step,
        last_step=low.step,
        measured=drop,
        threshold=wanted,
    )


def _pairs(points: list[Point], window: float) -> list[tuple[Point, Point]]:
    """(earlier, later) within the window; neighbours always, for checkpoints may lie farther apart.

    Shares at different lags, of batches of different length, are no pair.
    """
    found = []
    for place, later in enumerate(points[1:], 1):
        before = [point for point in points[:place] if point.needed_lag == later.needed_lag]
        near = [point for point in before if later.step - point.step <= window] or before[-1:]
        if near:
            found.append((max(near, key=_share), later))
    return found


def _share(point: Point) -> float:
    return point.gradient_share if point.gradient_share is not None else -math.inf


def _drop(pair: tuple[Point, Point]) -> float:
    before, after = _share(pair[0]), _share(pair[1])
    return 0.0 if before == -math.inf else before - after


def _shown(point: Point) -> str:
    share = _share(point)
    return "zero" if share == -math.inf else f"10^{share:.1f}"


RULE = TrainingRule(
    code="GS502",
    title="collapse of the gradient share",
    severity="error",
    judge=_judge,
    gives="vanishing",
    thresholds={
        "collapse_drop": Threshold(3.0, "log10", "how far the share must drop", low=0.0),
        "collapse_window": Threshold(1000.0, "updates", "within how many updates of the weights", low=0.0),
    },
    what=(
        "Within a few updates the part of the gradient that reaches the needed lag falls a thousandfold or more, and "
        "does not come back: one bad step, a learning rate too high, or a nonlinearity that died. An RNN of relu units "
        "that starts from the identity does this within 40 updates."
    ),
    maths=(
        "S(n) = log10( g_K / Σ g_k ) after n updates, K the needed lag",
        "drop = max over m < n ≤ m + window of S(m) − S(n)",
        "found when drop ≥ 3 and the last S is still 3 below S(m)",
    ),
    measured=(
        "From the leading points of the trajectory (signals, else analyses). Neighbouring points count even where they "
        "lie farther apart than the window."
    ),
    remedies=(
        "Find the step and what moved there: `gradscope show flow.jsonl`",
        "Clip the norm of the gradient and lower the learning rate; warm it up over the first updates",
        "Use a cell whose state has a path of its own: `gradscope compare lstm:forget_bias=5 gru lru`",
    ),
    papers=(papers.PASCANU_2013,),
)

"""Run the rules of training over a trajectory."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

from gradscope.records import RunSpec, Status, Verdict
from gradscope.registry import RULES, TRAINING_RULES, load
from gradscope.rules.judge import is_chosen
from gradscope.rules.training.gs503_clipped_direction import clipped_share, updates
from gradscope.rules.training.rule import TrainingRule, stated_lag
from gradscope.trajectory import Norms, Point, Trajectory, leading
from gradscope.verdicts import gravest

GENTLER = (
    "Bring the largest gain of one step to 1 too: smaller recurrent weights, an orthogonal matrix, or a norm inside "
    "the recurrence."
)
MOST_LOG10 = 300
"""A norm beyond is no number of float64."""


def judged(trajectory: Trajectory, spec: RunSpec) -> Trajectory:
    """The same with one verdict for every selected rule of training; `spec` holds what the user asked for now."""
    rules = [load(reference) for code, reference in TRAINING_RULES.items() if is_chosen(code, spec)]
    return replace(trajectory, verdicts=tuple(_verdict(rule, trajectory, spec) for rule in rules))


def for_reports(spec: RunSpec) -> RunSpec:
    """`spec` with the words about rules of single reports alone: what each point of a trajectory is judged by."""

    def known(prefixes: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(prefix for prefix in prefixes if any(code.startswith(prefix.upper()) for code in RULES))

    return replace(spec, select=known(spec.select), ignore=known(spec.ignore))


def status_of(trajectory: Trajectory) -> Status:
    """One word for a run: the gravest that a finding gives it, else how it ended."""
    named = gravest(verdict.gives for verdict in trajectory.verdicts if verdict.status in ("fail", "warn"))
    lead = leading(trajectory)
    one = lead[-1].layer if lead and lead[-1].kind == "signal" else None
    known = [point.status for point in trajectory.points if point.status is not None and one in (None, point.layer)]
    last = known[-1] if known else None
    return named or last or "inconclusive"


def ended(trajectory: Trajectory) -> Point | None:
    """The last point with a status."""
    return next((point for point in reversed(trajectory.points) if point.status is not None), None)


def advice_at_end(trajectory: Trajectory) -> str:
    """What to try about the status that the run ended with; of growth in terms of the run's own norms."""
    last = ended(trajectory)
    if last is None or last.status != "exploding":
        return "" if last is None else last.advice
    acted, known, _ = clipped_share(list(trajectory.points))
    if acted:
        clip = (
            f"Clipping acts at {acted} of {known} measured updates already: it bounds each update, and the gradient "
            "grows along the sequence as before"
        )
    else:
        clip = _clip([point.norms for point in updates(trajectory.points) if point.norms is not None])
    return f"{clip}. {GENTLER}"


def _clip(norms: Sequence[Norms]) -> str:
    """How to clip the norm, at a value that acts on what was measured."""
    raw = [norm.log10_raw for norm in norms if norm.log10_raw is not None and math.isfinite(norm.log10_raw)]
    usual = statistics.median(raw) if raw else 0.0
    limit = "1.0" if usual >= 0 else f"{10**usual:.1g}"
    scaled = " after `scaler.unscale_(optimizer)`" if any(norm.loss_scale is not None for norm in norms) else ""
    known = f"; it was {10**usual:.2g} here in the median" if raw and usual < MOST_LOG10 else ""
    how = f"`torch.nn.utils.clip_grad_norm_(model.parameters(), {limit})`"
    return f"Clip the norm of the gradient before each update{scaled}: {how}{known}"


def _verdict(rule: TrainingRule, trajectory: Trajectory, spec: RunSpec) -> Verdict:
    finding = rule.judge(trajectory, spec)
    verdict = rule.verdict(finding, lag_stated=stated_lag(trajectory, spec) is not None)
    return replace(verdict, gives=rule.gives if finding.outcome == "found" else None)

"""Run the rules over a report's model or a training run, and sum their verdicts up in one status."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from gradscope.errors import UsageError
from gradscope.records import ModelResult, RunSpec, Status, Verdict
from gradscope.registry import RULES, TRAINING_RULES, load, unknown
from gradscope.rules.gs1_learning import outlook
from gradscope.rules.gs5_training import clipped_share, measured_updates, stated_lag
from gradscope.rules.rule import Finding, Rule, TrainingRule
from gradscope.trajectory import Norms, Point, Trajectory, leading
from gradscope.verdicts import gravest


def judge(result: ModelResult, spec: RunSpec) -> tuple[Verdict, ...]:
    """One verdict for every selected rule, in the order of the table.

    Raises:
        UsageError: see `selected`.
    """
    rules = tuple(rule for rule in selected_rules(spec) if not rule.only_after_probe or result.probe is not None)
    verdicts = [_model_verdict(rule, result, spec) for rule in rules]
    found_codes = {verdict.code for verdict in verdicts if verdict.status in ("fail", "warn")}
    verdicts = [
        _invalidated(rule, verdict) if rule.invalid_if_found in found_codes else verdict
        for rule, verdict in zip(rules, verdicts, strict=True)
    ]
    # A mere remark gives no status, and so implies nothing.
    causes = {verdict.code for verdict in verdicts if verdict.gives is not None}
    return tuple(
        replace(verdict, gives=None, advice="") if causes.intersection(rule.implied_by) else verdict
        for rule, verdict in zip(rules, verdicts, strict=True)
    )


def with_verdicts(result: ModelResult, spec: RunSpec) -> ModelResult:
    """The result with its verdicts and the status that follows from them.

    Raises:
        UsageError: see `selected`.
    """
    verdicts, expected = judge(result, spec), None if result.probe else outlook(result, spec)
    return replace(result, verdicts=verdicts, status=status_of_verdicts(verdicts), outlook=expected)


def selected_rules(spec: RunSpec, *, of_training: bool = False) -> tuple[Rule, ...]:
    """The rules of this run; cheap, so that a wrong word is refused before anything is measured.

    `select` and `ignore` are prefixes of codes (`GS1`); where both match a rule the longer one wins, and `ignore` wins
    a tie.

    Args:
        spec: the settings.
        of_training: a whole training run is judged, by the rules of training too; none of a single report may be left.

    Raises:
        UsageError: a prefix matches no rule, no rule is left, or a threshold is unknown or out of range.
    """
    codes = list(RULES)
    all_codes = [*codes, *TRAINING_RULES]
    for prefix in (*spec.select, *spec.ignore):
        if not prefix or not any(code.startswith(prefix.upper()) for code in all_codes):
            raise UsageError(unknown("rule", prefix, all_codes))
    _check_thresholds(spec)
    chosen = [code for code in codes if is_chosen(code, spec)]
    training_codes = [code for code in TRAINING_RULES if is_chosen(code, spec)]
    if not chosen and spec.select and training_codes and not of_training:
        who_judges = (
            f"{training_codes[0]} judges a training run"
            if len(training_codes) == 1
            else f"{' '.join(training_codes)} judge training runs"
        )
        raise UsageError(
            f"no rule is left to judge: {who_judges} (gradscope track, or gradscope check flow.jsonl); select others"
        )
    if not chosen and not (of_training and training_codes):
        raise UsageError("no rule is left to judge: --ignore takes away all that --select allows; drop one of them")
    return tuple(load(RULES[code]) for code in chosen)


def status_of_verdicts(verdicts: Iterable[Verdict]) -> Status:
    """One word for a model: non-finite > exploding > vanishing > degenerate > inconclusive > healthy.

    A finding gives the status that its rule names. A model is inconclusive if nothing about its gradient could be
    judged, or if no rule was asked about vanishing or about exploding.
    """
    all_verdicts = list(verdicts)
    from_findings = gravest(verdict.gives for verdict in all_verdicts)
    return from_findings or ("inconclusive" if _is_inconclusive(all_verdicts) else "healthy")


def unjudged_statuses(verdicts: Iterable[Verdict]) -> tuple[Status, ...]:
    """Which of vanishing and exploding no rule was asked about; () where there is no verdict at all."""
    judged_statuses = {load(RULES[verdict.code]).status_if_found for verdict in verdicts if verdict.code in RULES}
    directions: tuple[Status, ...] = ("vanishing", "exploding")
    return tuple(direction for direction in directions if judged_statuses and direction not in judged_statuses)


def _is_inconclusive(verdicts: list[Verdict]) -> bool:
    if unjudged_statuses(verdicts):
        return True
    status_of_rule = {v.code: load(RULES[v.code]).status_if_found for v in verdicts if v.code in RULES}
    about_gradient = [v for v in verdicts if status_of_rule.get(v.code) in ("vanishing", "exploding")]
    outcomes = {verdict.status for verdict in about_gradient or verdicts}
    is_doubted = any(v.status == "inconclusive" and status_of_rule.get(v.code) == "degenerate" for v in verdicts)
    return is_doubted or "inconclusive" in outcomes or outcomes <= {"skip"}


def _model_verdict(rule: Rule, result: ModelResult, spec: RunSpec) -> Verdict:
    """Judge one rule, or say why it cannot be judged."""
    reason = _why_not_judged(rule, result)
    # Jacobians that miss the gradient are a doubt about what was measured, and not the mere lack of a number.
    refused = bool(reason) and any(
        result.skipped.get("chain") == result.skipped.get(name, "") for name in rule.requires
    )
    finding = Finding("inconclusive" if refused else "skip", reason) if reason else rule.judge(result, spec)
    verdict = rule.verdict(finding, lag_stated=spec.needs_lag is not None)
    if finding.outcome == "doubtful":
        return replace(verdict, gives="inconclusive")
    counts = finding.outcome == "found" and (verdict.status == "fail" or not rule.status_only_if_failed)
    # A gradient that grows until it stops dead vanishes nowhere: what is left of it further back is nothing.
    grows_then_stops = rule.status_if_found == "vanishing" and (result.summary.rate or 0.0) > 0
    return replace(verdict, gives=("degenerate" if grows_then_stops else rule.status_if_found) if counts else None)


def _invalidated(rule: Rule, verdict: Verdict) -> Verdict:
    """The verdict as skipped: it means nothing beside the finding `rule.invalid_if_found`."""
    return replace(
        verdict,
        status="skip",
        message=f"It means nothing where {rule.invalid_if_found} is found.",
        advice="",
        first_step=None,
        last_step=None,
        measured=None,
        gives=None,
    )


def _why_not_judged(rule: Rule, result: ModelResult) -> str:
    """Why a rule cannot be judged; empty where it can."""
    for name in rule.requires:
        value = getattr(result.summary, name)
        if value is None and not (rule.absent_means_clean and name not in result.skipped):
            return f"{name.replace('_', ' ')} is not known: {result.skipped.get(name, 'it was not measured')}"
        if _is_nan(value):
            return f"{name.replace('_', ' ')} is not a number"
    return ""


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def is_chosen(code: str, spec: RunSpec) -> bool:
    """Whether the longest prefix among `select` and `ignore` that matches selects the rule."""
    selecting = [len(prefix) for prefix in spec.select or ("GS",) if code.startswith(prefix.upper())]
    ignoring = [len(prefix) for prefix in spec.ignore if code.startswith(prefix.upper())]
    if not spec.select:
        return not ignoring
    return bool(selecting) and max(selecting) > max(ignoring, default=0)


def _check_thresholds(spec: RunSpec) -> None:
    """Refuse unknown names and values without meaning."""
    if not spec.thresholds:
        return
    references = (*RULES.values(), *TRAINING_RULES.values())
    limits = {name: limit for reference in references for name, limit in load(reference).thresholds.items()}
    for name, value in spec.thresholds.items():
        if name not in limits:
            raise UsageError(unknown("threshold", name, limits))
        limits[name].check(name, value)


LOWER_THE_GAIN = (
    "Bring the largest gain of one step to 1 too: smaller recurrent weights, an orthogonal matrix, or a norm inside "
    "the recurrence."
)
MAX_LOG10 = 300
"""A norm beyond is no number of float64."""


def trajectory_with_verdicts(trajectory: Trajectory, spec: RunSpec) -> Trajectory:
    """The run with one verdict for every selected rule of training; `spec` is what the user asks now."""
    rules = [load(reference) for code, reference in TRAINING_RULES.items() if is_chosen(code, spec)]
    return replace(trajectory, verdicts=tuple(_trajectory_verdict(rule, trajectory, spec) for rule in rules))


def settings_for_points(spec: RunSpec) -> RunSpec:
    """`spec` without prefixes of rules of training: the points of a run are judged as single reports."""

    def of_reports(prefixes: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(prefix for prefix in prefixes if any(code.startswith(prefix.upper()) for code in RULES))

    return replace(spec, select=of_reports(spec.select), ignore=of_reports(spec.ignore))


def trajectory_status(trajectory: Trajectory) -> Status:
    """One word for a run: the gravest that a finding gives it, else how it ended."""
    from_findings = gravest(verdict.gives for verdict in trajectory.verdicts if verdict.status in ("fail", "warn"))
    leading_points = leading(trajectory)
    leading_layer = leading_points[-1].layer if leading_points and leading_points[-1].kind == "signal" else None
    statuses = [
        point.status for point in trajectory.points if point.status is not None and leading_layer in (None, point.layer)
    ]
    at_end = statuses[-1] if statuses else None
    return from_findings or at_end or "inconclusive"


def last_judged_point(trajectory: Trajectory) -> Point | None:
    """The last point with a status."""
    return next((point for point in reversed(trajectory.points) if point.status is not None), None)


def advice_at_end(trajectory: Trajectory) -> str:
    """What to try about the last status; where it is exploding, how to clip at a norm that this run had."""
    last = last_judged_point(trajectory)
    if last is None or last.status != "exploding":
        return "" if last is None else last.advice
    clipped, compared, _ = clipped_share(list(trajectory.points))
    if clipped:
        clipping = (
            f"Clipping acts at {clipped} of {compared} measured updates already: it bounds each update, and the "
            "gradient grows along the sequence as before"
        )
    else:
        updates = measured_updates(trajectory.points)
        clipping = _how_to_clip([point.norms for point in updates if point.norms is not None])
    return f"{clipping}. {LOWER_THE_GAIN}"


def _how_to_clip(norms: Sequence[Norms]) -> str:
    """How to clip the norm: at 1, or at the median of the measured norms where that is smaller."""
    raw_norms = [norm.log10_raw for norm in norms if norm.log10_raw is not None and math.isfinite(norm.log10_raw)]
    median = statistics.median(raw_norms) if raw_norms else 0.0
    limit = "1.0" if median >= 0 else f"{10**median:.1g}"
    unscale_note = " after `scaler.unscale_(optimizer)`" if any(norm.loss_scale is not None for norm in norms) else ""
    median_note = f"; it was {10**median:.2g} here in the median" if raw_norms and median < MAX_LOG10 else ""
    call = f"`torch.nn.utils.clip_grad_norm_(model.parameters(), {limit})`"
    return f"Clip the norm of the gradient before each update{unscale_note}: {call}{median_note}"


def _trajectory_verdict(rule: TrainingRule, trajectory: Trajectory, spec: RunSpec) -> Verdict:
    finding = rule.judge(trajectory, spec)
    verdict = rule.verdict(finding, lag_stated=stated_lag(trajectory, spec) is not None)
    return replace(verdict, gives=rule.status_if_found if finding.outcome == "found" else None)

"""Run the rules over what was measured, and sum their verdicts up in one word."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from gradscope.errors import UsageError
from gradscope.records import ModelResult, RunSpec, Status, Verdict
from gradscope.registry import RULES, TRAINING_RULES, load, unknown
from gradscope.rules.outlook import outlook
from gradscope.rules.rule import Finding, Rule
from gradscope.verdicts import gravest


def judge(result: ModelResult, spec: RunSpec) -> tuple[Verdict, ...]:
    """One verdict for every selected rule, in the order of the table.

    Raises:
        UsageError: see `selected`.
    """
    rules = tuple(rule for rule in selected(spec) if not rule.only_probed or result.probe is not None)
    verdicts = [_verdict(rule, result, spec) for rule in rules]
    found = {verdict.code for verdict in verdicts if verdict.status in ("fail", "warn")}
    verdicts = [
        _void(rule, verdict) if rule.voided_by in found else verdict
        for rule, verdict in zip(rules, verdicts, strict=True)
    ]
    # What is merely remarked on explains nothing.
    causes = {verdict.code for verdict in verdicts if verdict.gives is not None}
    return tuple(
        replace(verdict, gives=None, advice="") if causes.intersection(rule.explained_by) else verdict
        for rule, verdict in zip(rules, verdicts, strict=True)
    )


def judged(result: ModelResult, spec: RunSpec) -> ModelResult:
    """The result with its verdicts and the status that follows from them.

    Raises:
        UsageError: see `selected`.
    """
    verdicts = judge(result, spec)
    return replace(
        result, verdicts=verdicts, status=status(verdicts), outlook=None if result.probe else outlook(result, spec)
    )


def selected(spec: RunSpec, *, of_training: bool = False) -> tuple[Rule, ...]:
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
    known = [*codes, *TRAINING_RULES]
    for prefix in (*spec.select, *spec.ignore):
        if not prefix or not any(code.startswith(prefix.upper()) for code in known):
            raise UsageError(unknown("rule", prefix, known))
    _check_thresholds(spec)
    chosen = [code for code in codes if is_chosen(code, spec)]
    trained = [code for code in TRAINING_RULES if is_chosen(code, spec)]
    if not chosen and spec.select and trained and not of_training:
        which = (
            f"{trained[0]} judges a training run" if len(trained) == 1 else f"{' '.join(trained)} judge training runs"
        )
        raise UsageError(
            f"no rule is left to judge: {which} (gradscope track, or gradscope check flow.jsonl); select others"
        )
    if not chosen and not (of_training and trained):
        raise UsageError("no rule is left to judge: --ignore takes away all that --select allows; drop one of them")
    return tuple(load(RULES[code]) for code in chosen)


def status(verdicts: Iterable[Verdict]) -> Status:
    """One word for a model: non-finite > exploding > vanishing > degenerate > inconclusive > healthy.

    Which finding gives which is each rule's own word. A model of which nothing about its gradient could be judged, or
    that was not judged for vanishing or for exploding, is inconclusive.
    """
    every = list(verdicts)
    named = gravest(verdict.gives for verdict in every)
    return named or ("inconclusive" if _is_inconclusive(every) else "healthy")


def unjudged(verdicts: Iterable[Verdict]) -> tuple[Status, ...]:
    """Which of vanishing and exploding no rule was asked about; () where there is no verdict at all."""
    asked = {load(RULES[verdict.code]).gives for verdict in verdicts if verdict.code in RULES}
    directions: tuple[Status, ...] = ("vanishing", "exploding")
    return tuple(direction for direction in directions if asked and direction not in asked)


def _is_inconclusive(verdicts: list[Verdict]) -> bool:
    if unjudged(verdicts):
        return True
    gives = {v.code: load(RULES[v.code]).gives for v in verdicts if v.code in RULES}
    about = [v for v in verdicts if gives.get(v.code) in ("vanishing", "exploding")]
    said = {verdict.status for verdict in about or verdicts}
    doubted = any(v.status == "inconclusive" and gives.get(v.code) == "degenerate" for v in verdicts)
    return doubted or "inconclusive" in said or said <= {"skip"}


def _verdict(rule: Rule, result: ModelResult, spec: RunSpec) -> Verdict:
    """Judge one rule, or say why it cannot be judged."""
    reason = _absent(rule, result)
    # Jacobians that miss the gradient are a doubt about what was measured, and not the mere lack of a number.
    refused = bool(reason) and any(result.skipped.get("chain") == result.skipped.get(own, "") for own in rule.requires)
    finding = Finding("inconclusive" if refused else "skip", reason) if reason else rule.judge(result, spec)
    verdict = rule.verdict(finding, lag_stated=spec.needs_lag is not None)
    if finding.outcome == "doubtful":
        return replace(verdict, gives="inconclusive")
    counts = finding.outcome == "found" and (verdict.status == "fail" or not rule.only_failing)
    # A gradient that grows until it stops dead vanishes nowhere: what is left of it further back is nothing.
    stops = rule.gives == "vanishing" and (result.summary.rate or 0.0) > 0
    return replace(verdict, gives=("degenerate" if stops else rule.gives) if counts else None)


def _void(rule: Rule, verdict: Verdict) -> Verdict:
    """A verdict that another finding takes the ground from."""
    return replace(
        verdict,
        status="skip",
        message=f"It means nothing where {rule.voided_by} is found.",
        advice="",
        first_step=None,
        last_step=None,
        measured=None,
        gives=None,
    )


def _absent(rule: Rule, result: ModelResult) -> str:
    """Why a rule cannot be judged; empty where it can."""
    for name in rule.requires:
        value = getattr(result.summary, name)
        if value is None and not (rule.none_is_clean and name not in result.skipped):
            return f"{name.replace('_', ' ')} is not known: {result.skipped.get(name, 'it was not measured')}"
        if _is_nan(value):
            return f"{name.replace('_', ' ')} is not a number"
    return ""


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def is_chosen(code: str, spec: RunSpec) -> bool:
    """Whether the longest prefix among `select` and `ignore` that matches selects the rule."""
    wanted = [len(prefix) for prefix in spec.select or ("GS",) if code.startswith(prefix.upper())]
    refused = [len(prefix) for prefix in spec.ignore if code.startswith(prefix.upper())]
    if not spec.select:
        return not refused
    return bool(wanted) and max(wanted) > max(refused, default=0)


def _check_thresholds(spec: RunSpec) -> None:
    """Refuse unknown names and values without meaning."""
    if not spec.thresholds:
        return
    references = (*RULES.values(), *TRAINING_RULES.values())
    known = {name: limit for reference in references for name, limit in load(reference).thresholds.items()}
    for name, value in spec.thresholds.items():
        if name not in known:
            raise UsageError(unknown("threshold", name, known))
        known[name].check(name, value)

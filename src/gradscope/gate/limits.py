"""A target's own limits, and verdicts of the gate itself: GS901 and up."""

from __future__ import annotations

import math
import shlex
from dataclasses import replace

from gradscope.config.command import command
from gradscope.flow_file import SUFFIX
from gradscope.profile import Profile
from gradscope.records import Limits, ModelResult, Number, RunSpec, Verdict, VerdictStatus
from gradscope.registry import RULES, load
from gradscope.rules.gs9_gate import LIMIT, UNMEASURED
from gradscope.rules.rule import RuleDoc
from gradscope.text import counted


def verdict(
    rule: RuleDoc,
    status: VerdictStatus,
    message: str,
    *,
    about: str = "",
    advice: str = "",
    measured: Number = None,
    threshold: Number = None,
) -> Verdict:
    """What one code of the gate says; `about` tells several verdicts of one code apart (`min_reach`)."""
    title = f"limit on {about}" if about else rule.title
    return Verdict(
        code=rule.code,
        title=title,
        severity=rule.severity,
        status=status,
        message=message,
        advice=advice if status == "fail" else "",
        measured=measured,
        threshold=threshold,
    )


def unmeasured(result: ModelResult) -> tuple[Verdict, ...]:
    """GS901 where the gradient is not known to be fine, because no rule about it could be judged; else nothing.

    A rule about it is one whose finding would make the status vanishing: each rests on the gradient by lag.
    """
    about = [v for v in result.verdicts if _is_about_gradient(v.code)]
    if not about or any(v.status != "skip" for v in about) or any(v.status == "fail" for v in result.verdicts):
        return ()
    reason = next((result.skipped[name] for name in ("rate", "reach") if name in result.skipped), about[0].message)
    return (verdict(UNMEASURED, "fail", f"Not measured: {reason.rstrip('.')}."),)


def is_unmeasured(result: ModelResult) -> bool:
    """Whether it holds that verdict."""
    return any(verdict.code == UNMEASURED.code for verdict in result.verdicts)


def _is_about_gradient(code: str) -> bool:
    return code in RULES and load(RULES[code]).status_if_found == "vanishing"


def judge_limits(result: ModelResult, limits: Limits, spec: RunSpec | None = None) -> tuple[Verdict, ...]:
    """One GS902 verdict for every limit that is set; a number that could not be measured misses it.

    Args:
        result: what was measured.
        limits: what it is held to.
        spec: the settings of the run; with them, a missed limit says which command shows why.
    """
    found = []
    if limits.min_reach is not None:
        found.append(_reach(result, limits.min_reach))
    if limits.rate is not None:
        found.append(_rate(result, *limits.rate))
    found += [_horizon(result, kind, lag) for kind, lag in sorted(limits.precision_horizon.items())]
    tip = _where_to_look(spec) if spec is not None else ""
    return tuple(replace(one, advice=tip) if one.status == "fail" else one for one in found)


def _where_to_look(spec: RunSpec) -> str:
    """The command that shows the model's steps, or those of a training run, which holds no model to analyse."""
    (word,) = spec.models
    shown = command(spec) if not word.lower().endswith(SUFFIX) else shlex.join(("gradscope", "show", word))
    return f"See step by step what ends it: `{shown}`."


def _reach(result: ModelResult, least: int) -> Verdict:
    reach = result.summary.reach
    if reach is None:
        return _unknown(result, "reach", "min_reach")
    return _at_least(reach, least, f"The reach is {counted(reach, 'lag')}", "min_reach", "min_reach")


def _rate(result: ModelResult, low: float, high: float) -> Verdict:
    """The whole interval outside is a miss, a straddling one says nothing; without an interval the point decides."""
    rate = result.summary.rate
    if rate is None or rate != rate:
        return _unknown(result, "rate", "rate")
    least, most = result.summary.rate_ci or (rate, rate)
    missed = most < low or least > high
    status: VerdictStatus = "fail" if missed else "pass" if low <= least and most <= high else "inconclusive"
    word = {"fail": "outside", "pass": "within", "inconclusive": "with an interval that straddles an end of"}[status]
    return verdict(
        LIMIT,
        status,
        f"The rate is {rate:.4g} nats/step, {word} rate = [{low:g}, {high:g}].",
        about="rate",
        measured=rate,
        threshold=low if rate < low else high,
    )


def _horizon(result: ModelResult, kind: str, least: int) -> Verdict:
    about = f"precision_horizon.{kind}"
    horizons = result.summary.precision_horizon or {}
    if kind not in horizons:
        return _unknown(result, "precision_horizon", about)
    profile, lag = Profile.of(result), horizons[kind].get("lag")
    # A number type ends nothing where there is no gradient to be held, nor beyond the first step.
    held = (k for k, value in enumerate(profile.values) if value != -math.inf)
    heard = max(held, default=0) if profile.values else profile.longest
    if lag is not None and lag <= heard:
        return _at_least(int(lag), least, f"In {kind} the gradient holds to lag {lag}", "precision_horizon", about)
    if heard >= least:
        return verdict(LIMIT, "pass", f"In {kind} the gradient holds over the whole sequence.", about=about)
    held_over = "the only lag that there is" if heard == 1 else f"all {counted(heard, 'lag')} that there are"
    said = f"In {kind} the gradient holds over {held_over}"
    said = f"Beyond lag {heard} the gradient is exactly zero" if heard < profile.longest else said
    return _at_least(heard, least, said, "precision_horizon", about)


def _at_least(measured: int, least: int, said: str, limit: str, about: str) -> Verdict:
    status: VerdictStatus = "pass" if measured >= least else "fail"
    asked = "which keeps" if status == "pass" else "short of"
    message = f"{said}, {asked} {limit} = {least}."
    return verdict(LIMIT, status, message, about=about, measured=measured, threshold=least)


def _unknown(result: ModelResult, quantity: str, about: str) -> Verdict:
    reason = result.skipped.get(quantity, "it was not measured")
    return verdict(LIMIT, "fail", f"The {quantity.replace('_', ' ')} is not known: {reason}.", about=about)

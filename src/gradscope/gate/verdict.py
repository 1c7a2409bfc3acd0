"""Verdicts of the gate itself: GS901 and up."""

from __future__ import annotations

from gradscope.records import ModelResult, Number, Verdict, VerdictStatus
from gradscope.registry import RULES, load
from gradscope.rules.gs9_gate import UNMEASURED, GateRule


def verdict(
    rule: GateRule,
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
    return code in RULES and load(RULES[code]).gives == "vanishing"

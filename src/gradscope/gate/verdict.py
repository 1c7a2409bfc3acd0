"""Verdicts of the gate itself: GS901 and up."""

from __future__ import annotations

from gradscope.records import Number, Verdict, VerdictStatus
from gradscope.rules.gate import GateRule


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

"""A target against its entry in the baseline: is it worse, and which of its findings are known and accepted?"""

from __future__ import annotations

from dataclasses import replace

from gradscope.gate.baseline import TOLERANCE, Entry, found_by, is_finding
from gradscope.gate.verdict import verdict
from gradscope.records import ModelResult, Number, Verdict
from gradscope.rules.gate import WORSE

REMEDY = "If the change is meant, write the baseline again: `gradscope check --update-baseline`."


def judge_against(result: ModelResult, entry: Entry, max_drop: float) -> ModelResult:
    """The result with its GS903 verdict; unless it got worse, findings that the entry holds are accepted."""
    against = _verdict(result, entry, max_drop)
    verdicts = result.verdicts
    if against.status != "fail":
        verdicts = tuple(
            replace(found, accepted=is_finding(found) and found_by(found) in entry.findings) for found in verdicts
        )
    return replace(result, verdicts=(*verdicts, against))


def is_better(result: ModelResult, entry: Entry, max_drop: float) -> bool:
    """Whether so much has improved that the baseline no longer guards it."""
    gone = set(entry.findings) - {found_by(found) for found in result.verdicts if is_finding(found)}
    reach = result.summary.reach
    return bool(gone) or (reach is not None and entry.reach is not None and reach * (1 - max_drop) > entry.reach)


def _verdict(result: ModelResult, entry: Entry, max_drop: float) -> Verdict:
    if result.status == "inconclusive" and entry.status == "healthy":
        return verdict(WORSE, "inconclusive", "The baseline says healthy; this run is too uncertain to call.")
    if result.status not in ("healthy", entry.status):
        return verdict(WORSE, "fail", f"The baseline says {entry.status}; now it is {result.status}.", advice=REMEDY)
    allowed = f"more than {100 * max_drop:g} % worse than the baseline"
    for name, now, before in (
        ("reach", result.summary.reach, entry.reach),
        ("coverage", result.summary.coverage, entry.coverage),
    ):
        if before is not None and (now is None or now < before * (1 - max_drop) * (1 - TOLERANCE)):
            said = "is not known any more" if now is None else f"fell from {before:.4g} to {now:.4g}"
            least = before * (1 - max_drop)
            message = f"The {name} {said}: {allowed}."
            return verdict(WORSE, "fail", message, advice=REMEDY, measured=now, threshold=least)
    return _rate(result, entry, max_drop, allowed)


def _rate(result: ModelResult, entry: Entry, max_drop: float, allowed: str) -> Verdict:
    """Worse: the intervals are apart, and the rate moved away from zero by more than its part, or than 1/K's."""
    now, before = result.summary.rate, entry.rate
    if now is None or before is None:
        return verdict(WORSE, "pass", "Reach and coverage are what the baseline says.")
    most = abs(before) + max_drop * max(abs(before), 1 / max(result.summary.needed_lag or 1, 1))
    if _apart(result.summary.rate_ci or (now, now), entry.rate_ci or (before, before)) and abs(now) > most:
        message = f"The rate went from {before:.4g} to {now:.4g} nats/step: {allowed}."
        return verdict(WORSE, "fail", message, advice=REMEDY, measured=now, threshold=most if now > 0 else -most)
    return verdict(WORSE, "pass", "Reach, coverage and rate are what the baseline says.", measured=now)


def _apart(one: tuple[Number, Number], other: tuple[Number, Number]) -> bool:
    (low, high), (least, most) = one, other
    if low is None or high is None or least is None or most is None:
        return False
    slack = TOLERANCE * max(abs(least), abs(most))
    return high < least - slack or low > most + slack

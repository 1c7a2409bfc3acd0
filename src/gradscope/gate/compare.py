"""A target against its entry in the baseline: is it worse, and which of its findings are known and accepted?"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from gradscope.gate.baseline import APART, TOLERANCE, Entry, found_by, gates_of, is_finding, limits_held
from gradscope.gate.limits import verdict
from gradscope.profile import Profile
from gradscope.records import Limits, ModelResult, Number, Verdict
from gradscope.rules.gs9_gate import LIMIT, WORSE

REMEDY = "If the change is meant, write the baseline again: `{update}`."
UPDATE = "gradscope check --update-baseline"
"""The command that does, where targets and baseline are written down."""
FEWEST_LAGS = 3
"""Lags by which reach or coverage must fall at least: one or two more or less are other random weights."""
STANDARD_ERRORS = 2
"""A fall within so many of its own standard errors is chance."""
GATE_MOVED = 0.05
"""A mean gate that moved by this much is told of beside what got worse."""


def judge_against(result: ModelResult, entry: Entry, limits: Limits, update: str = UPDATE) -> ModelResult:
    """The result with its GS903 verdict; unless it got worse, findings that the entry holds are accepted.

    A missed limit is accepted where the entry missed it too, and was held to one at least as strict.

    Args:
        result: as it was measured now.
        entry: as it was.
        limits: of the target.
        update: the command that writes the baseline again.
    """
    looser, stricter = moved_limits(entry, limits)
    against = _verdict(result, entry, limits.max_drop)
    if looser and against.status != "fail":
        against = verdict(WORSE, "fail", f"Looser than in the baseline: {'; '.join(looser.values())}.", advice=REMEDY)
    against = replace(against, advice=against.advice.replace("{update}", update))
    verdicts = result.verdicts
    if against.status != "fail":
        held = set(entry.findings) - {f"{LIMIT.code} {name}" for name in stricter}
        verdicts = tuple(replace(found, accepted=is_finding(found) and found_by(found) in held) for found in verdicts)
    return replace(result, verdicts=(*verdicts, against))


def moved_limits(entry: Entry, limits: Limits) -> tuple[dict[str, str], dict[str, str]]:
    """Limits that allow more than those of the entry, and those that allow less, each by name with a sentence.

    One that is gone allows all. How much worse than the baseline a number may be is no limit of the target's own.
    """
    if entry.limits is None:
        return {}, {}
    looser, stricter = {}, {}
    now = limits_held(limits, "")
    for name in (*entry.limits, *(name for name in now if name not in entry.limits)):
        before, here = entry.limits.get(name), now.get(name)
        if name in APART or before == here:
            continue
        said = f"{name} is {_limit(here)}, it was {_limit(before)}"
        lows, highs = zip(_ends(before), _ends(here), strict=True)
        if lows[1] < lows[0] or highs[1] > highs[0]:
            looser[name] = said
        if lows[1] > lows[0] or highs[1] < highs[0]:
            stricter[name] = said
    return looser, stricter


def _ends(limit: Any) -> tuple[float, float]:
    """The least and the largest value that a limit allows."""
    low, high = limit if isinstance(limit, list) else (limit, None)
    return -math.inf if low is None else low, math.inf if high is None else high


def _limit(value: Any) -> str:
    return "not set" if value is None else str(value)


def is_better(result: ModelResult, entry: Entry, max_drop: float) -> bool:
    """Whether so much has improved that the baseline no longer guards it."""
    gone = set(entry.findings) - {found_by(found) for found in result.verdicts if is_finding(found)}
    reach = result.summary.reach
    return bool(gone) or (reach is not None and entry.reach is not None and reach * (1 - max_drop) > entry.reach)


def _verdict(result: ModelResult, entry: Entry, max_drop: float) -> Verdict:
    """What was measured is compared first: a status may turn inconclusive just because the numbers fell."""
    allowed = f"more than {100 * max_drop:g} % worse than the baseline"
    worse = _fallen(result, entry, max_drop, allowed) or _faster(result, entry, max_drop, allowed)
    if worse is not None:
        return worse
    if result.status not in ("healthy", "inconclusive", entry.status) and not _held(result, entry):
        message = f"The baseline says {entry.status}; now it is {result.status}.{_moved(result, entry)}"
        return verdict(WORSE, "fail", message, advice=REMEDY)
    if result.status == "inconclusive" and entry.status == "healthy":
        message = "The numbers are what the baseline says; its status was healthy and is inconclusive now."
        return verdict(WORSE, "inconclusive", message)
    return verdict(WORSE, "pass", "Reach, coverage and rate are what the baseline says.", measured=result.summary.rate)


def _held(result: ModelResult, entry: Entry) -> bool:
    """Whether the entry holds what the status rests on already, though a graver status stood before it then."""
    return any(v.gives == result.status and found_by(v) in entry.findings for v in result.verdicts)


def _fallen(result: ModelResult, entry: Entry, max_drop: float, allowed: str) -> Verdict | None:
    """Reach, then coverage: worse by the part `max_drop`, by a few lags, and by more than chance."""
    lags = Profile.of(result).longest
    for name, now, before, lag in (
        ("reach", result.summary.reach, entry.reach, 1.0),
        ("coverage", result.summary.coverage, entry.coverage, 1 / max(lags, 1)),
    ):
        if before is None:
            continue
        if now is None:
            why = result.skipped.get(name, "it was not measured")
            message = f"The {name} was {_amount(name, before, lags)}, and is not known any more: {why}."
            return verdict(WORSE, "fail", message, advice=REMEDY)
        # A limit of zero is meant word by word.
        fewest, apart = (FEWEST_LAGS - 0.5, STANDARD_ERRORS) if max_drop else (0.0, 0)
        errors = ((result.summary.spread or {}).get(name, 0.0), (entry.spread or {}).get(name, 0.0))
        least = min(
            before * (1 - max_drop) * (1 - TOLERANCE),
            before - fewest * lag,
            before - apart * math.hypot(*errors),
        )
        if now < least:
            said = f"fell from {_amount(name, before, lags)} to {_amount(name, now, lags)}"
            message = f"The {name} {said}: {allowed}.{_moved(result, entry)}"
            return verdict(WORSE, "fail", message, advice=REMEDY, measured=now, threshold=before * (1 - max_drop))
    return None


def _amount(name: str, value: float, lags: int) -> str:
    """`39`, `0.91 (181 of 199 lags)`."""
    if name == "reach":
        return f"{value:g}"
    return f"{value:.2g} ({round(value * lags)} of {lags} lags get at least 1 % of the largest gradient)"


def _faster(result: ModelResult, entry: Entry, max_drop: float, allowed: str) -> Verdict | None:
    """Worse: the intervals are apart, and the rate moved away from zero by more than its part, or than 1/K's."""
    now, before = result.summary.rate, entry.rate
    if now is None or before is None:
        return None
    most = abs(before) + max_drop * max(abs(before), 1 / max(result.summary.needed_lag or 1, 1))
    if not _apart(result.summary.rate_ci or (now, now), entry.rate_ci or (before, before)) or abs(now) <= most:
        return None
    message = f"The rate went from {before:.3g} to {now:.3g} nats/step: {allowed}.{_moved(result, entry)}"
    return verdict(WORSE, "fail", message, advice=REMEDY, measured=now, threshold=most if now > 0 else -most)


def _apart(one: tuple[Number, Number], other: tuple[Number, Number]) -> bool:
    (low, high), (least, most) = one, other
    if low is None or high is None or least is None or most is None:
        return False
    slack = TOLERANCE * max(abs(least), abs(most))
    return high < least - slack or low > most + slack


def _moved(result: ModelResult, entry: Entry) -> str:
    """` The mean forget gate went from 0.98 to 0.50.`: what moved with it, which often names the commit's change."""
    now = gates_of(result)
    moved = [
        f"the mean {name} gate from {before:.2f} to {now[name]:.2f}"
        for name, before in entry.gates.items()
        if name in now and abs(now[name] - before) >= GATE_MOVED
    ]
    said = ", ".join(moved)
    return f" With it went {said}." if said else ""

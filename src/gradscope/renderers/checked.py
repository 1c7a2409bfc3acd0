"""What a gate says of each target, in the words that every format shares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gradscope.profile import Profile
from gradscope.records import ModelResult, Report, Target, Verdict
from gradscope.renderers.text import numbers, wording
from gradscope.verdicts import fails, worst

Outcome = Literal["failed", "accepted", "warned", "passed"]
COUNTED: dict[Outcome, str] = {
    "failed": "failed",
    "accepted": "accepted by baseline",
    "warned": "with warnings",
    "passed": "passed",
}
SIGNS: dict[Outcome, str] = {"failed": "✗", "accepted": "!", "warned": "!", "passed": "✓"}


@dataclass(frozen=True)
class Row:
    """A target, its result, and what came of it."""

    target: Target
    model: ModelResult
    outcome: Outcome

    @property
    def sign(self) -> str:
        """`?` where nothing failed because too little could be known."""
        unsure = self.outcome == "passed" and self.model.status == "inconclusive"
        return "?" if unsure else SIGNS[self.outcome]

    @property
    def leading(self) -> Verdict | None:
        """The finding to name first: what made it fail, else what was accepted or warned of."""
        found = findings(self.model)
        if self.outcome == "failed":
            found = [verdict for verdict in found if fails([verdict], self.target.spec.fail_on)] or found
        return found[0] if found and self.outcome != "passed" else None

    @property
    def said(self) -> str:
        """`GS101 vanishing`, `GS902 limit on min_reach`, `healthy`."""
        lead = self.leading
        if lead is None:
            return self.model.status
        return f"{lead.code} {self.model.status if lead is wording.deciding(self.model) else lead.title}"

    @property
    def reach(self) -> str:
        """`9/199, needs 50`."""
        reach = self.model.summary.reach
        if reach is None:
            return numbers.MISSING
        total = Profile.of(self.model).longest
        limits = (self.target.spec.needs_lag, self.target.limits.min_reach)
        needs = max((lag for lag in limits if lag is not None), default=None)
        return f"{reach}/{total}" + (f", needs {needs}" if needs is not None and reach < needs else "")


def rows(report: Report) -> list[Row]:
    """One per target, in their order."""
    if report.check is None:
        return []
    pairs = zip(report.check.targets, report.models, strict=False)
    return [Row(target, model, _outcome(target, model)) for target, model in pairs]


def findings(model: ModelResult) -> list[Verdict]:
    """Failures, then warnings; within them what decides the status first, and what is accepted last."""
    chosen = wording.deciding(model)
    every = ([chosen] if chosen else []) + wording.other_findings(model)
    found = [verdict for verdict in every if verdict.status in ("fail", "warn")]
    return sorted(found, key=lambda verdict: (verdict.accepted, verdict.status != "fail"))


def counts(every: Sequence[Row]) -> str:
    """`1 failed, 1 accepted by baseline, 1 passed`."""
    found = Counter(row.outcome for row in every)
    return ", ".join(f"{found[outcome]} {word}" for outcome, word in COUNTED.items() if found[outcome]) or "no target"


def shared(report: Report) -> str:
    """`gradscope 0.1.0 · [tool.gradscope] in pyproject.toml · 3 targets · seed 0 · cpu`."""
    check = report.check
    if check is None:
        return ""
    specs = [target.spec for target in check.targets]
    count = len(specs)
    pieces = [
        f"gradscope {report.environment.get('gradscope', '')}".strip(),
        check.source,
        f"{count} target{'s' if count != 1 else ''}",
        *_one([f"seed {spec.seed}" for spec in specs]),
        *_one([spec.device for spec in specs]),
        *([f"baseline {check.baseline}"] if check.baseline else []),
    ]
    return " · ".join(pieces)


def place(model: ModelResult) -> str:
    """`models/enc.py:14`; empty where it is not known."""
    location = model.loaded.location
    if location is None:
        return ""
    return location.file if location.line is None else f"{location.file}:{location.line}"


def _one(values: list[str]) -> list[str]:
    """What all have in common, if they do."""
    return values[:1] if len(set(values)) == 1 else []


def _outcome(target: Target, model: ModelResult) -> Outcome:
    if fails(model.verdicts, target.spec.fail_on):
        return "failed"
    if any(verdict.accepted for verdict in model.verdicts):
        return "accepted"
    return "passed" if worst(model.verdicts) is None else "warned"

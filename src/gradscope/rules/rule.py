"""What a rule is: what it needs to know, how it judges, where its limits lie; and what a training run asks of one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources.abc import Traversable
from typing import Literal, cast

from gradscope.errors import UsageError
from gradscope.records import ModelResult, Number, RunSpec, Severity, Status, Verdict, VerdictStatus
from gradscope.rules.texts import PAGES, RulePage, read_page
from gradscope.trajectory import Trajectory

Outcome = Literal["pass", "found", "doubtful", "remark", "inconclusive", "skip"]
"""`doubtful` and `remark` warn and never fail: one leaves the status inconclusive, the other leaves it alone."""
WARN_ONLY: tuple[Outcome, ...] = ("doubtful", "remark")


@dataclass(frozen=True)
class Finding:
    """What a rule's own judge saw; `judge` turns it into a `Verdict` by adding code, title and severity."""

    outcome: Outcome
    message: str
    advice: str = ""
    first_step: int | None = None
    last_step: int | None = None
    measured: Number = None
    threshold: Number = None


@dataclass(frozen=True)
class Threshold:
    """A limit that the user may move, with its unit and what it means."""

    default: float
    unit: str
    meaning: str
    low: float = -math.inf
    """Values at or below `low`, or at or above `high`, make no sense and are refused."""
    high: float = math.inf

    def check(self, name: str, value: float) -> None:
        """Refuse a value outside the open interval (low, high).

        Raises:
            UsageError: names the value, the interval and the default.
        """
        if not self.low < value < self.high:
            between = f"between {self.low:g} and {self.high:g}" if self.high < math.inf else f"above {self.low:g}"
            fits = f"a number {between} (default {self.default:g})"
            raise UsageError(f"threshold {name}={value:g} cannot be: give {fits}")


@dataclass(frozen=True, kw_only=True)
class RuleDoc:
    """What every rule has, whatever it judges: a code, a page that teaches it, and limits."""

    code: str
    pages: Traversable = PAGES
    """The folder that holds its page, `CODE.md`."""
    thresholds: dict[str, Threshold] = field(default_factory=dict)
    status_if_found: Status | None = None
    """The status of what this is found in, where no graver one is; None for a remark that changes none."""
    needs_stated_lag: bool = False
    """A finding warns instead of failing unless the user said how far back the task must reach."""

    @cached_property
    def page(self) -> RulePage:
        """What its page says, read when it is first asked for."""
        return read_page(self.pages / f"{self.code}.md")

    @property
    def title(self) -> str:
        """What it finds, in a few words."""
        return self.page.title

    @property
    def severity(self) -> Severity:
        """`error`: a finding fails; `warning`: a finding warns at most."""
        return self.page.severity

    def limit(self, spec: RunSpec, name: str) -> float:
        """The threshold `name` that holds in this run."""
        return float(spec.thresholds.get(name, self.thresholds[name].default))

    def verdict(self, finding: Finding, *, lag_stated: bool) -> Verdict:
        """What a finding comes to, with how hard it counts."""
        only_warns = finding.outcome in WARN_ONLY or (self.needs_stated_lag and not lag_stated)
        severity: Severity = "warning" if only_warns else self.severity
        if_found: VerdictStatus = "fail" if severity == "error" else "warn"
        return Verdict(
            code=self.code,
            title=self.title,
            severity=severity,
            status=if_found if finding.outcome in ("found", *WARN_ONLY) else cast(VerdictStatus, finding.outcome),
            message=finding.message,
            advice=finding.advice,
            first_step=finding.first_step,
            last_step=finding.last_step,
            measured=finding.measured,
            threshold=finding.threshold,
        )


@dataclass(frozen=True, kw_only=True)
class Rule(RuleDoc):
    """One rule about a report's model, judged and explained from the same object.

    What vanishes or explodes is the gradient: a model of which no such rule could be judged is inconclusive.
    """

    requires: tuple[str, ...]
    """Values of `Summary` without which the rule is skipped."""
    judge: Callable[[ModelResult, RunSpec], Finding]
    implied_by: tuple[str, ...] = ()
    """Codes of findings that explain this one, which then has no part in the status."""
    invalid_if_found: str | None = None
    """Code of a finding after which this one means nothing: it is skipped, and says so."""
    only_after_probe: bool = False
    """Judged only where a probe was made, and not spoken of elsewhere."""
    status_only_if_failed: bool = False
    """Only a failure gives the status, a warning does not."""
    absent_means_clean: bool = False
    """A required value of None means that nothing was found, not that nothing was measured."""


def needed_lag(result: ModelResult, spec: RunSpec) -> int:
    """K: what was measured, else what was asked for, else T - 1."""
    if result.summary.needed_lag is not None:
        return result.summary.needed_lag
    return spec.needs_lag if spec.needs_lag is not None else max(result.length - 1, 1)


@dataclass(frozen=True, kw_only=True)
class TrainingRule(RuleDoc):
    """One rule over the steps of a training run."""

    judge: Callable[[Trajectory, RunSpec], Finding]

"""Run the cases one by one and judge them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gradscope.isolation.state import isolated
from gradscope.numerics.costs.threads import threads_for
from gradscope.selftest.case import Case
from gradscope.text import safe_text

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Outcome:
    """One case, measured."""

    name: str
    measured: tuple[float, ...] = ()
    exact: tuple[float, ...] = ()
    errors: tuple[float, ...] = ()
    tolerance: float | None = None
    source: str = ""
    reason: str | None = None
    """What was raised, when there is nothing to compare."""

    @property
    def passed(self) -> bool:
        """Whether there are numbers, and all are within the tolerance."""
        return self.error is not None and self.tolerance is not None and self.error <= self.tolerance

    @property
    def error(self) -> float | None:
        """The largest error."""
        return max(self.errors, default=None)


def run(
    cases: Sequence[Case], full: bool = False, progress: Progress = lambda label, done, total: None
) -> tuple[Outcome, ...]:
    """Measure every case; one that raises has failed, and the others still run.

    Args:
        cases: the table.
        full: take the longer variant where there is one.
        progress: called as progress(name, done, total) before each case.
    """
    outcomes = []
    with isolated(), threads_for(1):
        for place, case in enumerate(cases):
            progress(case.name, place, len(cases))
            outcomes.append(_measured(case, full))
    return tuple(outcomes)


def _measured(case: Case, full: bool) -> Outcome:
    measure = case.full if full and case.full is not None else case.measure
    try:
        found = measure()
        errors = found.errors()
    except Exception as raised:  # whatever a broken part raises, the table has to say so and go on
        reason = safe_text(f"{type(raised).__name__}: {raised}")
        return Outcome(case.name, reason=reason)
    return Outcome(case.name, found.measured, found.exact, errors, found.tolerance, found.source)

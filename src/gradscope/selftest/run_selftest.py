"""The table of cases, run one by one, judged, and shown as text and JSON."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch

from gradscope import __version__
from gradscope.isolation.caller_state import isolated
from gradscope.numerics.costs import threads_for
from gradscope.selftest import cell_cases, chain_cases, equality_cases
from gradscope.selftest.case import Case
from gradscope.text import safe_text

CASES: tuple[Case, ...] = (
    *chain_cases.PRODUCTS,
    *chain_cases.EXPONENTS,
    *cell_cases.CELLS,
    *chain_cases.INFLUENCE,
    *equality_cases.EQUALITY,
    *chain_cases.DERIVATIVES,
)


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


SCHEMA = "gradscope.selftest/1"
NAME, NUMBER = 30, 13
VISIBLE = 1e-9


def text(outcomes: Sequence[Outcome], seconds: float, *, quiet: bool = False, sources: bool = False) -> str:
    """A row for every case and a line that sums up; that line alone when `quiet`."""
    summary = last_line(outcomes, seconds) + "\n"
    if quiet:
        return summary
    head = f"{'case':<{NAME}}{'measured':>{NUMBER}}{'exact':>{NUMBER}}{'error':>9}{'limit':>8} "
    rows = [line for outcome in outcomes for line in _lines(outcome, sources)]
    return "\n".join([head.rstrip(), *rows, "", summary])


def last_line(outcomes: Sequence[Outcome], seconds: float) -> str:
    """How many cases are right, or which are not."""
    failed = [outcome.name for outcome in outcomes if not outcome.passed]
    if not failed:
        return f"selftest: all {len(outcomes)} cases ok, {seconds:.1f} s"
    return f"selftest: {len(failed)} of {len(outcomes)} cases FAILED: {'; '.join(failed)}"


def as_json(outcomes: Sequence[Outcome], seconds: float) -> str:
    """One object; non-finite numbers by name. `timing` aside, equal runs give equal bytes."""
    found = {
        "schema": SCHEMA,
        "passed": all(outcome.passed for outcome in outcomes),
        "environment": {
            "gradscope": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "platform": platform.machine(),
        },
        "cases": [_entry(outcome) for outcome in outcomes],
        "timing": {"seconds": seconds},
    }
    return json.dumps(found, indent=2, allow_nan=False) + "\n"


def _entry(outcome: Outcome) -> dict[str, object]:
    entry = asdict(outcome) | {"error": outcome.error, "passed": outcome.passed}
    return {key: _spelled(value) for key, value in entry.items()}


def _lines(outcome: Outcome, sources: bool) -> list[str]:
    verdict = "ok" if outcome.passed else "FAILED"
    if outcome.error is None or outcome.tolerance is None:
        blank = f"{'-':>{NUMBER}}{'-':>{NUMBER}}{'-':>9}{'-':>8}"
        return [f"{outcome.name:<{NAME}}{blank} {verdict}", f"  {outcome.reason}"]
    # The first number names the case; another one is shown only where its error would be visible.
    place = 0 if outcome.error < VISIBLE else outcome.errors.index(outcome.error)
    numbers = f"{_number(outcome.measured[place]):>{NUMBER}}{_number(outcome.exact[place]):>{NUMBER}}"
    row = f"{outcome.name:<{NAME}}{numbers}{outcome.error:>9.1e}{outcome.tolerance:>8.0e} {verdict}"
    return [row, f"  {outcome.source}"] if sources else [row]


def _number(value: float) -> str:
    """At most twelve characters: whole numbers as such, very small ones as powers, nine figures otherwise."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e9:
        return str(int(value))
    if not 1e-4 <= abs(value) < 1e9:
        return f"{value:.2e}"
    before_point = len(str(int(abs(value))))
    return f"{value:.{10 - before_point}f}"


def _spelled(value: object) -> object:
    if isinstance(value, tuple):
        return [_spelled(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value

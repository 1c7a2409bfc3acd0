"""What verdicts add up to: the one place that says whether something fails."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gradscope.records import Severity, Verdict

RANKS: Mapping[str | None, int] = {None: 0, "warning": 1, "error": 2, "never": 3}


def worst(verdicts: Iterable[Verdict]) -> Severity | None:
    """`error` if any rule fails, `warning` if any warns; what a baseline accepts counts as neither."""
    said = {verdict.status for verdict in verdicts if not verdict.accepted}
    return "error" if "fail" in said else "warning" if "warn" in said else None


def fails(verdicts: Iterable[Verdict], fail_on: str) -> bool:
    """Whether the worst of them is at least as severe as `fail_on` (`never`, `warning`, `error`)."""
    return RANKS[worst(verdicts)] >= RANKS[fail_on]

"""A report of one model as a point of a trajectory."""

from __future__ import annotations

import math

from gradscope.records import ModelResult, Number, Values
from gradscope.trajectory import Change, Point

PER_DECADE = (1, 1.3, 1.6, 2, 2.5, 3.2, 4, 5, 6.3, 8)
"""Lags of a profile that a point keeps, by powers of ten: enough for a picture, and few."""
SMALLEST_FLOAT32 = math.log10(2.0**-149)
"""log10 of the smallest number above zero in float32."""


def point_of(
    result: ModelResult,
    step: int,
    *,
    source: str = "",
    changes: tuple[Change, ...] = (),
    seconds: float | None = None,
) -> Point:
    """What a report says of its one model, as a point."""
    summary = result.summary
    profile = result.series.values.get("log10_influence", ())
    lags, kept = thinned(profile)
    found = [verdict for verdict in result.verdicts if verdict.status in ("fail", "warn")]
    found.sort(key=lambda verdict: (verdict.gives != result.status, verdict.status != "fail"))
    deciding = found[0] if found and found[0].gives == result.status else None
    return Point(
        step=step,
        kind="analysis",
        source=source,
        length=result.length,
        needed_lag=summary.needed_lag,
        gradient_share=summary.gradient_share,
        reach=summary.reach,
        rate=summary.rate,
        lyapunov=summary.lyapunov[0] if summary.lyapunov else None,
        gates=_gates(result),
        status=result.status,
        findings=tuple(verdict.code for verdict in found),
        message="" if deciding is None else deciding.message,
        advice="" if deciding is None else deciding.advice,
        lags=lags,
        log10_influence=kept,
        below_float32=below_float32(profile),
        non_finite=summary.non_finite,
        changes=changes,
        seconds=seconds,
    )


def thinned(profile: Values) -> tuple[tuple[int, ...], Values]:
    """A profile at lags 0, 1 and about ten a decade, the longest included."""
    if not profile:
        return (), ()
    last = len(profile) - 1
    wanted = {0, last} | {round(part * 10**power) for power in range(7) for part in PER_DECADE}
    lags = tuple(sorted(lag for lag in wanted if lag <= last))
    return lags, tuple(profile[lag] for lag in lags)


def below_float32(profile: Values) -> int | None:
    """The first lag >= 1 at which a gradient is too small for float32; one that is zero in any type is not meant."""
    lagged = enumerate(profile[1:], 1)
    return next((lag for lag, value in lagged if value is not None and -math.inf < value < SMALLEST_FLOAT32), None)


def _gates(result: ModelResult) -> dict[str, Number]:
    """Mean over the sequence of every gate."""
    found: dict[str, Number] = {}
    for name, values in result.series.values.items():
        known = [value for value in values if value is not None and math.isfinite(value)]
        if name.startswith("gate.") and name.endswith(".mean") and known:
            found[name.removeprefix("gate.").removesuffix(".mean")] = math.fsum(known) / len(known)
    return found

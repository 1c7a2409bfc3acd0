"""A run that analyses one model."""

from __future__ import annotations

from dataclasses import asdict

from gradscope.pipeline import diagnose
from gradscope.records import RunSpec
from gradscope.sweeps.outcome import Outcome
from gradscope.verdicts import worst


def run(spec: RunSpec) -> Outcome:
    """Analyse the one model of `spec`: the numbers and verdicts of `gradscope analyze`, without series.

    Raises:
        UsageError: the model or its sequence cannot be had.
    """
    result = diagnose(spec, detail=False).models[0]
    found = [verdict for verdict in result.verdicts if verdict.status in ("fail", "warn")]
    return Outcome(
        status=result.status,
        worst=worst(result.verdicts),
        summary=asdict(result.summary),
        findings=tuple(verdict.code for verdict in found),
        notes=(*result.notes, *result.loaded.assumed),
    )

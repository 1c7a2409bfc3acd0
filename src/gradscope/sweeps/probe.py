"""A run that probes one model: what `analyze` says of it, and what short trainings made of it."""

from __future__ import annotations

from dataclasses import asdict, replace

from gradscope.examine import examine
from gradscope.records import RunSpec
from gradscope.sweeps.outcome import Outcome
from gradscope.verdicts import worst


def run(spec: RunSpec) -> Outcome:
    """Probe the one model of `spec` on its task; the summary holds `learned_at` and `learned_part` besides.

    Raises:
        UsageError: the model or the task cannot be had.
    """
    result = examine(replace(spec, probe=True), detail=False).models[0]
    assert result.probe is not None
    learned = [one.learned_at for one in result.probe.runs if one.learned_at is not None]
    found = [verdict for verdict in result.verdicts if verdict.status in ("fail", "warn")]
    outcome = {"learned_at": min(learned, default=None), "learned_part": len(learned) / max(len(result.probe.runs), 1)}
    return Outcome(
        status=result.status,
        worst=worst(result.verdicts),
        summary={**asdict(result.summary), **outcome},
        findings=tuple(verdict.code for verdict in found),
        notes=(*result.notes, *result.loaded.assumed, *result.probe.notes),
    )

"""One run of a sweep, in the process of a worker: an analysis or a probe, and what is kept of it."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from gradscope.examine import full_report
from gradscope.pipeline import diagnose
from gradscope.records import RunSpec, Severity, Status
from gradscope.registry import SWEEP_RUNS, load
from gradscope.verdicts import worst


@dataclass(frozen=True)
class Task:
    """One run for a worker."""

    work: str
    """`module:attr` of run(spec) -> Outcome."""
    spec: RunSpec
    folder: str
    """Where the user's files and modules are looked for."""
    threads: int


@dataclass(frozen=True)
class Outcome:
    """What is kept of a run: plain data that JSON can hold."""

    status: Status
    worst: Severity | None
    """Of its findings."""
    summary: dict[str, Any] = field(default_factory=dict)
    findings: tuple[str, ...] = ()
    """Codes of the rules that fail or warn."""
    notes: tuple[str, ...] = ()


def analyzed(spec: RunSpec) -> Outcome:
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


def probed(spec: RunSpec) -> Outcome:
    """Probe the one model of `spec` on its task; the summary holds `learned_at` and `learned_part` besides.

    Raises:
        UsageError: the model or the task cannot be had.
    """
    result = full_report(replace(spec, probe=True), detail=False).models[0]
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


def prepare() -> None:
    """Import what runs need, once for all workers that are forked from this process."""
    import gradscope.pipeline  # noqa: F401

    for reference in SWEEP_RUNS.values():
        load(reference)


def perform(task: Task) -> Outcome:
    """Do one run, in its folder and with its number of threads.

    Raises:
        UsageError: what it asks for cannot be had.
    """
    import torch

    if os.getcwd() != task.folder:
        os.chdir(task.folder)
    if task.folder not in sys.path:
        sys.path.append(task.folder)
    torch.set_num_threads(task.threads)
    outcome: Outcome = load(task.work)(task.spec)
    return outcome

"""A gate from targets to a report: measured apart, held to their limits and to the baseline; and its Python API."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gradscope import __version__
from gradscope.config.command import setup_of
from gradscope.config.sources import LIMITS
from gradscope.config.targets import Project, baseline_path, job_count
from gradscope.gate.baseline import (
    APART,
    Baseline,
    Entry,
    entry_of,
    limits_held,
    read_baseline,
    refuse_other_setup,
    updated,
)
from gradscope.gate.compare import UPDATE, is_better, judge_against
from gradscope.gate.limits import is_unmeasured, judge_limits, unmeasured, verdict
from gradscope.gate.measure import TargetMeasurement, Task, measure, prepare
from gradscope.gate.over import runs_of, together
from gradscope.records import Check, Loaded, ModelResult, Report, RunSpec, Series, Summary, Target, Timing
from gradscope.rules.gs9_gate import UNMEASURED
from gradscope.workers import Ending, Job, cores, run_apart

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Gate:
    """What is measured, and how."""

    targets: tuple[Target, ...]
    source: str
    """Where they were written down, in words."""
    folder: Path
    """What the paths in the baseline count from, and where modules are looked for."""
    jobs: int | None = None
    baseline: str | None = None
    update: bool = False
    detail: bool = True
    command: str = UPDATE
    """What writes the baseline again."""


@dataclass(frozen=True)
class Passage:
    """A report, what is to be written into the baseline, and tracebacks of targets that failed, by name."""

    report: Report
    entries: dict[str, Entry | None]
    """By target; None for one that could not be measured. Empty where no baseline is written."""
    traces: dict[str, str]


def pass_through(gate: Gate, progress: Progress | None = None) -> Passage:
    """Measure every target in a process of its own, and judge.

    Raises:
        UsageError: a target that asks for what cannot be, or a baseline that is missing or of another set-up.
    """
    begun = time.perf_counter()
    old = _baseline(gate)
    prepare()
    _refuse_wrong_words(gate.targets)
    points = {target.name: runs_of(target) for target in gate.targets}
    found = _measured(gate, points, progress)
    endings = [found[target.name][0] for target in gate.targets]
    results = [_judged(target, points[target.name], found[target.name]) for target in gate.targets]
    entries = {
        target.name: _entry(target, result, ending, gate.folder)
        for target, result, ending in zip(gate.targets, results, endings, strict=True)
    }
    new = updated(old, entries) if gate.update and old is not None else old
    notes = [] if new is None else _notes(gate, results, entries, new)
    if new is not None:
        results = [
            _compared(target, result, new, gate.command) for target, result in zip(gate.targets, results, strict=True)
        ]
    environment = next((e.value.environment for e in endings if e.value is not None), None) or _environment()
    times = {name: sum(ending.seconds for ending in all_of) for name, all_of in found.items()}
    report = Report(
        run=RunSpec(models=tuple(target.spec.models[0] for target in gate.targets)),
        environment=environment,
        models=tuple(results),
        timing=Timing(time.perf_counter() - begun, times),
        check=Check(gate.source, gate.targets, gate.baseline, tuple(notes)),
    )
    traces = {name: e.trace for name, all_of in found.items() for e in all_of if e.trace}
    return Passage(report, entries if gate.update else {}, traces)


def _baseline(gate: Gate) -> Baseline | None:
    """The old baseline; an empty one where it is to be written for the first time."""
    if gate.baseline is None:
        return None
    if gate.update and not Path(gate.baseline).exists():
        return Baseline()
    found = read_baseline(gate.baseline)
    if not gate.update:
        for target in gate.targets:
            refuse_other_setup(found, gate.baseline, target.name, setup_of(target.spec, gate.folder))
    return found


def _refuse_wrong_words(targets: Sequence[Target]) -> None:
    """What a family or a rule does not know is a wrong word of the user's, not a finding about a model."""
    from gradscope.config.words import parse_model
    from gradscope.gate.training_run import is_run
    from gradscope.loading.from_word import source_of
    from gradscope.rules.judge import selected_rules

    for spec in (one.spec for target in targets for _, one in runs_of(target)):
        selected_rules(spec, of_training=is_run(spec.models[0]))
        if parse_model(spec.models[0]).is_family:
            source_of(spec.models[0], spec)


def _measured(
    gate: Gate, points: Mapping[str, Sequence[tuple[str, Target]]], progress: Progress | None
) -> dict[str, list[Ending]]:
    """How the measuring of each target ended, of one that is a sweep at each point."""
    flat = [target for target in gate.targets for _ in points[target.name]]
    at_once = min(gate.jobs or cores(), len(flat))
    threads = max(1, cores() // at_once)
    jobs = [
        Job(Task(one, str(gate.folder), gate.detail, threads), one.limits.timeout)
        for target in gate.targets
        for _, one in points[target.name]
    ]
    done: list[int] = []

    def ended(place: int) -> None:
        done.append(place)
        if progress is not None:
            progress(f"check {flat[place].name}", len(done), len(flat))

    found: dict[str, list[Ending]] = {}
    for target, ending in zip(flat, run_apart(measure, jobs, at_once, ended), strict=True):
        found.setdefault(target.name, []).append(ending)
    return found


def _judged(target: Target, points: Sequence[tuple[str, Target]], endings: Sequence[Ending]) -> ModelResult:
    if target.over:
        return together(target, [point for point, _ in points], endings)
    (ending,) = endings
    measured: TargetMeasurement | None = ending.value
    if measured is not None:
        result = measured.result
        return replace(
            result, verdicts=(*unmeasured(result), *result.verdicts, *judge_limits(result, target.limits, target.spec))
        )
    return ModelResult(
        name=target.name,
        kind="module",
        status="inconclusive",
        size=0,
        length=0,
        loaded=Loaded(target.spec.models[0], location=target.location),
        summary=Summary(),
        series=Series(),
        verdicts=(verdict(UNMEASURED, "fail", f"Not measured: {ending.reason}."),),
    )


def _entry(target: Target, result: ModelResult, ending: Ending, folder: Path) -> Entry | None:
    if ending.value is None or target.over or is_unmeasured(result):
        return None
    held = limits_held(target.limits, target.spec.fail_on)
    return entry_of(setup_of(target.spec, folder), result, ending.value.environment, held)


def _compared(target: Target, result: ModelResult, baseline: Baseline, update: str) -> ModelResult:
    entry = baseline.targets.get(target.name)
    if entry is None or not result.length or is_unmeasured(result):
        return result
    return judge_against(result, entry, target.limits, update)


def _notes(
    gate: Gate, results: Sequence[ModelResult], entries: dict[str, Entry | None], baseline: Baseline
) -> list[str]:
    """What the reader should know of the baseline, one sentence each."""
    notes = []
    for target, result in zip(gate.targets, results, strict=True):
        before, now = baseline.targets.get(target.name), entries[target.name]
        if now is None:
            if target.over:
                notes.append(f"{target.name} is a sweep, which no baseline holds: min-healthy does")
            continue
        if before is None:
            notes.append(f"{target.name} is not in the baseline yet, so nothing holds it; --update-baseline adds it")
            continue
        if is_better(result, before, target.limits.max_drop):
            notes.append(f"{target.name} is better than the baseline; --update-baseline keeps it so")
        held = now.limits or {}
        notes += [
            f"{name} of {target.name} is {held[name]}, it was {before.limits[name]} when the baseline was written"
            for name in APART
            if before.limits is not None and before.limits.get(name, held.get(name)) != held.get(name)
        ]
        other = [f"{name} {v}" for name, v in before.versions.items() if now.versions.get(name) != v]
        if other:
            notes.append(f"the baseline of {target.name} was measured with {', '.join(other)}")
    return notes


def _environment() -> dict[str, str]:
    return {"gradscope": __version__, "python": platform.python_version(), "platform": platform.machine()}


def check(
    *targets: str, folder: str | Path = ".", jobs: int | None = None, baseline: str | None = None, **settings: Any
) -> Report:
    """Measure targets apart from each other and judge them, as `gradscope check` does; nothing is written.

    Args:
        targets: names from the configuration files, or models; all targets when none is given.
        folder: where the search for configuration files starts, upwards.
        jobs: how many run at the same time.
        baseline: file to compare with, from the working folder; what the configuration says when absent.
        settings: fields of `RunSpec` and of `Limits` by name, over what the files say: `needs_lag=50, min_reach=20`.

    Raises:
        UsageError: something asked for cannot be had.
    """
    limits = {name: settings.pop(name) for name in LIMITS if name in settings}
    project = Project(Path.cwd(), os.environ, settings, limits, start=Path(folder).resolve())
    asked = project.asked(targets)
    gate = Gate(
        targets=tuple(one.target for one in asked),
        source=project.source(),
        folder=project.folder,
        jobs=job_count(project, jobs),
        baseline=baseline_path(project, baseline),
    )
    return pass_through(gate).report

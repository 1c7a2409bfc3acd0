"""What happens in the process of one target: measure it, and say where it is defined."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from gradscope.config.words import shown_path
from gradscope.gate.training_run import is_run, result_of_run
from gradscope.records import Location, ModelResult, Target

CUT = "GS401"
"""The rule whose finding is about a line of the model's code."""


@dataclass(frozen=True)
class Task:
    """A target, where its modules are looked for, and whether every number is wanted."""

    target: Target
    folder: str
    detail: bool
    threads: int
    """For states that are worth more than one."""


@dataclass(frozen=True)
class TargetMeasurement:
    """The result, under the target's name, and what it was measured with."""

    result: ModelResult
    environment: dict[str, str]


def prepare() -> None:
    """Import what `measure` needs, once for all workers that are forked from this process."""
    import gradscope.examine
    import gradscope.pipeline  # noqa: F401


def measure(task: Task) -> TargetMeasurement:
    """Analyse the one model of a target.

    Raises:
        UsageError: the model or its sequence cannot be had.
    """
    target = task.target
    if is_run(target.spec.models[0]):
        return TargetMeasurement(*result_of_run(target.spec.models[0], target.name, target.spec, target.location))
    import torch

    from gradscope.examine import full_report
    from gradscope.isolation.caller_state import isolated
    from gradscope.loading.objects import cut_in, definition

    torch.set_num_threads(task.threads)
    sys.path.append(task.folder)
    with isolated():
        report = full_report(task.target.spec, detail=task.detail)
        place = definition(task.target.spec.models[0])
    result = report.models[0]
    location = task.target.location
    if place is not None:
        location = Location(shown_path(place[0], Path.cwd(), os.environ), place[1])
        if place[0].suffix == ".py" and (line := cut_in(*place)) is not None:
            there = replace(location, line=line)
            marked = (replace(v, location=there) if v.code == CUT else v for v in result.verdicts)
            result = replace(result, verdicts=tuple(marked))
    named = replace(result, name=task.target.name, loaded=replace(result.loaded, location=location))
    return TargetMeasurement(named, report.environment)

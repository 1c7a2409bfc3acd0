"""`gradscope.check`: the gate from Python."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from gradscope.config.sources import LIMITS
from gradscope.config.targets import Project, baseline_path, job_count
from gradscope.gate.run import Gate, pass_through
from gradscope.records import Report


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
        known=tuple(project.written),
        jobs=job_count(project, jobs),
        baseline=baseline_path(project, baseline),
    )
    return pass_through(gate).report

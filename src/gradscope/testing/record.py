"""Measurements of tests against a baseline file: what the pytest fixture compares and writes down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gradscope.config.command import setup_of
from gradscope.gate.baseline import (
    Baseline,
    Entry,
    entry_of,
    limits_held,
    parse_baseline,
    read_baseline,
    refuse_other_setup,
    write_entries,
)
from gradscope.gate.compare import judge_against
from gradscope.gate.limits import is_unmeasured
from gradscope.records import ModelResult
from gradscope.testing.flow import failure, limits_among, measured
from gradscope.verdicts import fails

UPDATE = "pytest --gradscope-update-baseline"


class Recorder:
    """What one run of tests measured, and the baseline it is held to.

    Args:
        file: the baseline; None for none.
        update: whether it is to be written: everything found is accepted then.
        folder: what paths in it count from.
    """

    def __init__(self, file: str | None, update: bool, folder: Path) -> None:
        self.file = file
        self.update = update
        self.folder = folder
        self.entries: dict[str, Entry] = {}
        self.unheld: list[str] = []
        """Tests that the baseline says nothing of."""
        self._old: Baseline | None = None

    @property
    def old(self) -> Baseline:
        """What the file says; nothing where there is none, or where it is to be written for the first time.

        Raises:
            UsageError: the file is missing, or something else.
        """
        if self._old is None:
            new = self.file is None or (self.update and not Path(self.file).exists())
            self._old = Baseline() if new or self.file is None else read_baseline(self.file)
        return self._old

    def judge(self, name: str, model: Any, x: Any, settings: dict[str, Any]) -> ModelResult:
        """Measure `model` and judge it by the rules, its limits and the entry `name`.

        Raises:
            UsageError: something asked for cannot be had, or the baseline is of another set-up.
        """
        settings = {"loss": "final", **settings}
        limits = limits_among(settings)
        report = measured(model, x, **settings)
        result, setup = report.models[0], setup_of(report.run, self.folder)
        if x is not None:
            setup["x"] = [*x.shape, str(x.dtype)]
        if is_unmeasured(result):
            return result
        self.entries[name] = entry_of(
            setup, result, report.environment, limits_held(limits, settings.get("fail_on", "error"))
        )
        if self.update:
            return judge_against(result, self.entries[name], limits, UPDATE)
        if self.file is not None:
            refuse_other_setup(self.old, self.file, name, setup)
        entry = self.old.targets.get(name)
        if entry is None:
            if self.file is not None:
                self.unheld.append(name)
            return result
        return judge_against(result, entry, limits, UPDATE)

    def handed_over(self) -> str:
        """What was measured, for another process."""
        return Baseline(self.entries).content().decode()

    def take(self, handed: str, unheld: list[str]) -> None:
        """What another process measured, and which of it no baseline holds."""
        self.unheld += unheld
        self.entries |= parse_baseline(handed.encode(), "what a worker measured").targets

    def write(self) -> None:
        """Write the file: new entries over the old ones.

        Raises:
            UsageError: it cannot be written.
        """
        if self.file is not None:
            write_entries(Path(self.file), self.entries)


def assert_recorded(recorder: Recorder, name: str, model: Any, x: Any, settings: dict[str, Any]) -> ModelResult:
    """`assert_gradient_flow`, held to a baseline too.

    Raises:
        AssertionError: a finding that the baseline does not accept.
        UsageError: something asked for cannot be had.
    """
    __tracebackhide__ = True
    result = recorder.judge(name, model, x, settings)
    fail_on = settings.get("fail_on", "error")
    if fails(result.verdicts, fail_on):
        raise AssertionError(failure(result, fail_on))
    return result

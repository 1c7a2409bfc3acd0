"""A trajectory from checkpoints: each analysed in its turn, what cannot be is skipped with its reason."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from gradscope.errors import UsageError
from gradscope.files.paths import existing_file, kind_of
from gradscope.files.torch_file import load_torch
from gradscope.files.weights_file import read_weights
from gradscope.monitor.checkpoints import Order, counters_in, found_files, number_in, order_of, step_of
from gradscope.monitor.points import changes, plain, point_of
from gradscope.pipeline import Progress, diagnose
from gradscope.records import Report, RunSpec
from gradscope.rules.judge import settings_for_points, trajectory_with_verdicts
from gradscope.text import safe_text
from gradscope.trajectory import Head, Point, Skipped, Trajectory

Told = Callable[[Point], None]
Stamp = tuple[int, int]
"""Size and time of a file: one that is still being written has another the next time."""


@dataclass
class Track:
    """The checkpoints of one run, as far as they have been looked at; `look` again finds what is new."""

    words: Sequence[str]
    spec: RunSpec
    """How each is analysed; its models are left aside."""
    module: str | None = None
    """`file.py:attr` of the module that the checkpoints fill; None: the recurrence in each file."""
    progress: Progress = lambda label, done, total: None
    order: Order | None = None
    points: dict[Path, Point] = field(default_factory=dict)
    skipped: dict[Path, str] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    _stamps: dict[Path, Stamp] = field(default_factory=dict)
    _reports: dict[Path, Report] = field(default_factory=dict)
    """Of checkpoints that were analysed before their step was known."""
    _weights: tuple[int, dict[str, Tensor]] | None = None

    def look(self, told: Told | None = None) -> int:
        """Analyse the checkpoints that are new or have changed, in the order of their steps.

        Args:
            told: called with each point when it is known.

        Returns:
            How many points were added.

        Raises:
            UsageError: a word names nothing, or nothing at all could be measured.
        """
        fresh = self._fresh()
        every = {path: self._counters(path) for path in fresh}
        counted = {path: counters for path, counters in every.items() if path not in self.skipped}
        if self.order is None and counted:
            self.order = self._ordered(counted)
        steps = {path: self._step(path, counted[path], place) for place, path in enumerate(counted)}
        ordered = sorted((step, path) for path, step in steps.items() if step is not None)
        for place, (step, path) in enumerate(ordered):
            self.progress(f"checkpoint {safe_text(path.name, 40)}", place, len(ordered))
            self._measure(path, step, told)
        if not self.points and self.skipped:
            path, reason = next(iter(self.skipped.items()))
            more = f" (and {len(self.skipped) - 1} more files)" if len(self.skipped) > 1 else ""
            raise UsageError(f"no checkpoint could be measured{more}: {reason}" if path else reason)
        return len(ordered)

    @property
    def trajectory(self) -> Trajectory:
        """What is known so far, judged."""
        head = Head(
            origin="checkpoints",
            name=self.module or " ".join(self.words),
            needed_lag=self.spec.needs_lag,
            order=str(self.order) if self.order is not None else "",
            environment=self.environment,
        )
        points = sorted(self.points.values(), key=lambda point: point.step)
        skipped = [Skipped(self._shown(path), reason) for path, reason in self.skipped.items()]
        return trajectory_with_verdicts(Trajectory(head, tuple(points), tuple(skipped), tuple(self.notes)), self.spec)

    def _fresh(self) -> list[Path]:
        """Files that were not there, or not so, the last time; oldest first."""
        found = []
        for path in found_files(self.words):
            try:
                status = path.stat()
            except OSError:
                continue
            stamp = status.st_size, status.st_mtime_ns
            if self._stamps.get(path) != stamp:
                self._stamps[path] = stamp
                self.skipped.pop(path, None)
                self._reports.pop(path, None)
                found.append((status.st_mtime_ns, path))
        return [path for _, path in sorted(found)]

    def _counters(self, path: Path) -> dict[str, int]:
        """What the file says of its step; a file that cannot be read is noted as skipped."""
        try:
            kind = kind_of(existing_file(str(path), "checkpoint"), "checkpoint")
            return counters_in(load_torch(path, "checkpoint", kind)) if kind in ("torch zip", "torch pickle") else {}
        except UsageError as error:
            if not (self.spec.trust and type(error).__name__ == "WantsCodeError"):
                self.skipped[path] = str(error)
            return {}

    def _ordered(self, counted: dict[Path, dict[str, int]]) -> Order:
        """What the checkpoints are put in order by; files that turn out to be none are skipped and have no say."""
        order = order_of(counted.items())
        if order.by != "time":
            return order
        for path in [path for path, counters in counted.items() if not counters and number_in(path) is None]:
            if self._report(path) is None:
                del counted[path]
        return order_of(counted.items()) if counted else order

    def _report(self, path: Path) -> Report | None:
        """The analysis of a checkpoint, made once for each state of its file; None where it is skipped."""
        if path not in self._reports:
            spec = settings_for_points(self.spec)
            if self.module is not None:
                spec = replace(spec, models=(self.module,), weights=str(path))
            else:
                spec = replace(spec, models=(str(path),))
            try:
                self._reports[path] = diagnose(spec, detail=False)
            except UsageError as error:
                self.skipped[path] = str(error)
                return None
        return self._reports[path]

    def _step(self, path: Path, counters: dict[str, int], place: int) -> int | None:
        if path in self.skipped or self.order is None:
            return None
        if self.order.by == "time":
            return self.points[path].step if path in self.points else len(self.points) + place
        step = step_of(path, counters, self.order)
        if step is None:
            self.skipped[path] = f"it has no step, and the others are ordered {self.order}"
        return step

    def _measure(self, path: Path, step: int, told: Told | None) -> None:
        begun = time.perf_counter()
        report = self._report(path)
        if report is None:
            return
        moved = self._moved(path, step)
        del self._reports[path]
        self._remember(report)
        seconds = round(time.perf_counter() - begun, 3)
        point = point_of(report.models[0], step, source=self._shown(path), changes=moved, seconds=seconds)
        self.points[path] = point
        if told is not None:
            told(point)

    def _moved(self, path: Path, step: int) -> tuple[Any, ...]:
        """Changes since the checkpoint before; none where the weights cannot be read as data."""
        try:
            now = plain(_named(path))
        except UsageError:
            return ()
        before, self._weights = self._weights, (step, now)
        return changes(before[1], now) if before is not None and before[0] < step else ()

    def _remember(self, report: Report) -> None:
        if not self.points:
            result = report.models[0]
            self.environment = dict(report.environment)
            self.notes.update(dict.fromkeys((*result.notes, *result.loaded.assumed)))

    def _shown(self, path: Path) -> str:
        """The file's name; with its folder where several have the same."""
        twice = sum(other.name == path.name for other in self._stamps) > 1
        return f"{path.parent.name}/{path.name}" if twice else path.name


def _named(path: Path) -> dict[str, Tensor]:
    return read_weights(path, "checkpoint")

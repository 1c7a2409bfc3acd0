"""Times that can be compared: all sides in one run, one after the other in every round; medians of the rounds."""

from __future__ import annotations

import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
Job = Callable[[], object]


@dataclass(frozen=True)
class Effort:
    """How much a run may take."""

    quick: bool = False
    """Small sizes and few rounds: does everything run? The goals are meant for the full sizes."""
    whole: bool = False
    """The sizes of the goals however long they take."""

    @property
    def rounds(self) -> int:
        """Most rounds of one measurement."""
        return 2 if self.quick else 5

    @property
    def seconds(self) -> float:
        """Time for one measurement: warm-up and rounds of all its sides together."""
        return 2.0 if self.quick else 3600.0 if self.whole else 60.0

    def pick(self, full: Any, quick: Any) -> Any:
        """`full`, or `quick` in a quick run."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Medians:
    """Median seconds by job."""

    seconds: Mapping[str, float]
    rounds: int

    def __getitem__(self, name: str) -> float:
        """Of one job."""
        return self.seconds[name]

    @property
    def said(self) -> str:
        """`5 rounds`."""
        return f"{self.rounds} round{'s' if self.rounds != 1 else ''}"


def interleaved(jobs: Mapping[str, Job], effort: Effort) -> Medians:
    """Run every job once to warm up, then all of them in turn, round after round.

    A disturbance of the machine thus meets all sides alike. Rounds end at `effort.rounds`, or before the one that
    would exceed `effort.seconds`; there is always one.
    """
    begun = time.perf_counter()
    found: dict[str, list[float]] = {name: [] for name in jobs}
    slowest = sum(_timed(job) for job in jobs.values())
    for done in range(effort.rounds):
        if done and time.perf_counter() - begun + slowest > effort.seconds:
            break
        took = {name: _timed(job) for name, job in jobs.items()}
        for name, seconds in took.items():
            found[name].append(seconds)
        slowest = max(slowest, sum(took.values()))
    medians = {name: statistics.median(times) for name, times in found.items()}
    return Medians(medians, min(len(times) for times in found.values()))


def _timed(job: Job) -> float:
    """Seconds of one call; what it returns is let go before the clock stops, as a user would have to."""
    gc.collect()
    collecting = gc.isenabled()
    # A collection in the middle of a job would be charged to it.
    gc.disable()
    try:
        begun = time.perf_counter()
        job()
        return time.perf_counter() - begun
    finally:
        if collecting:
            gc.enable()


def fitting_length(lengths: Sequence[int], job_of: Callable[[int], Job], effort: Effort) -> tuple[int, tuple[str, ...]]:
    """The longest of `lengths` (descending) that leaves time for two rounds, and a note where it is not the first.

    The shortest is tried once; the cost is taken to grow linearly. The job of a length is what one round takes.
    """
    if effort.whole or len(lengths) == 1:
        return lengths[0], ()
    per_step = _timed(job_of(lengths[-1])) / lengths[-1]
    # One warm-up and two rounds.
    length = next((n for n in lengths if 3 * n * per_step <= effort.seconds), lengths[-1])
    if length == lengths[0]:
        return length, ()
    would = 3 * lengths[0] * per_step
    return length, (f"T={length:,}: T={lengths[0]:,} would take about {would:.0f} s; --whole takes it",)


def in_new_process(module: str, *arguments: str) -> dict[str, Any]:
    """Run `python -m module arguments` and read the JSON object it prints."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found

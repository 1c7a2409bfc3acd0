"""What is done at a point: a run of this program and what is kept of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gradscope.records import RunSpec, Severity, Status


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

"""How a report is to be shown: the one settings object every renderer takes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gradscope.errors import UsageError
from gradscope.text import safe_text

STEPS = re.compile(r"(\d*):(\d*)")

NARROW = 60
"""Columns below which tables do not fit."""


@dataclass(frozen=True)
class View:
    """Presentation only: two views of one report differ in looks, never in numbers.

    Raises:
        UsageError: `steps` is none of `auto`, `all` and `a:b`, or `width` is below 20.
    """

    width: int = 80
    """Columns of the screen. Below `NARROW`, tables turn into `key: value` lines."""
    ascii: bool = False
    """Replace every character outside ASCII."""
    colour: bool = False
    steps: str = "auto"
    """Rows of the table over time: `auto` (the telling ones), `all`, or `a:b` (steps a to b, both included)."""
    verbose: int = 0
    show: tuple[str, ...] = ()
    """Extra pictures by name: `gates`."""
    charts: tuple[str, ...] = ()
    """Which charts a picture shows, by name; none: the usual one."""
    quiet: bool = False
    """Verdict lines only."""
    shade: str = ""
    """A number of the summaries that the cells of a sweep show in place of their status."""
    x: str = ""
    """The axis of a sweep that runs across; '' lets their lengths decide."""
    y: str = ""
    """The axis that runs down."""

    def __post_init__(self) -> None:
        if self.steps not in {"auto", "all"} and not _is_range(self.steps):
            raise UsageError(f"--steps '{safe_text(self.steps)}' is not a choice of steps; use auto, all or a:b (0:20)")
        if self.width < 20:
            raise UsageError(f"--width {self.width} is too narrow; use 20 or more")

    @property
    def narrow(self) -> bool:
        """Too narrow for tables."""
        return self.width < NARROW

    def step_range(self) -> tuple[int, int | None] | None:
        """First and last step of `a:b` (last None: to the end); None for `auto` and `all`."""
        match = STEPS.fullmatch(self.steps)
        if match is None:
            return None
        first, last = match.groups()
        return int(first or 0), int(last) if last else None


def _is_range(steps: str) -> bool:
    match = STEPS.fullmatch(steps)
    if match is None or len(steps) > 40:
        return False
    first, last = match.groups()
    return not (first and last and int(first) > int(last))

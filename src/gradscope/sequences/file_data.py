"""What a reader of files hands over, before anything is cut, scaled or checked for NaN."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from gradscope.errors import UsageError
from gradscope.text import safe_text


@dataclass(frozen=True, eq=False)
class FileData:
    """Numbers of one file."""

    values: NDArray[Any]
    """Real numbers as stored: (T,), (T, F) or (B, T, F); for targets also (B,) and (B, T)."""
    columns: tuple[str, ...] = ()
    """Names of the features, for messages; empty where the format has none."""
    picks: tuple[str, ...] = ()
    """Words of `--columns` still to be applied: features by number, counted from 1."""
    notes: tuple[str, ...] = ()
    factor: float = 1.0
    """What `values` are multiplied with (1/32768 for 16-bit sound)."""
    scale: str = "none"
    """The `--scale` of this format when none is given."""


def is_numbered(pick: str) -> bool:
    """Whether a word of `--columns` is a number, `3`, or a range with both ends, `2-5`."""
    return re.fullmatch(r"[0-9]{1,9}(-[0-9]{1,9})?", pick) is not None


def column_numbers(picks: tuple[str, ...], count: int, what: str) -> list[int]:
    """Positions (from 0) of the columns that `picks` counts from 1, one by one or as ranges such as `2-5`.

    Raises:
        UsageError: not a number, or no such column.
    """
    found: list[int] = []
    for pick in picks:
        if not is_numbered(pick):
            raise UsageError(
                f"{what} has no column '{safe_text(pick)}'; its {count} columns go by number, 1 to {count}"
            )
        first, _, last = pick.partition("-")
        if not 1 <= int(first) <= int(last or first) <= count:
            raise UsageError(f"--columns {pick} is not in {what}; its columns are 1 to {count}")
        found += range(int(first) - 1, int(last or first))
    return found


def as_ranges(places: list[int]) -> str:
    """Positions (from 0) as `--columns` has them: `1,3-13`."""
    runs: list[list[int]] = []
    for place in sorted(places):
        if runs and runs[-1][-1] == place - 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    return ",".join(str(run[0] + 1) if len(run) == 1 else f"{run[0] + 1}-{run[-1] + 1}" for run in runs)

"""What a reader of files hands over, before anything is cut, scaled or checked for NaN."""

from __future__ import annotations

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


def column_numbers(picks: tuple[str, ...], count: int, what: str) -> list[int]:
    """Positions (from 0) of the columns that `picks` counts from 1.

    Raises:
        UsageError: not a number, or no such column.
    """
    for pick in picks:
        if not (pick.isascii() and pick.isdigit()):
            raise UsageError(
                f"{what} has no column '{safe_text(pick)}'; its {count} columns go by number, 1 to {count}"
            )
        if not 1 <= int(pick) <= count:
            raise UsageError(f"--columns {pick} is not in {what}; its columns are 1 to {count}")
    return [int(pick) - 1 for pick in picks]

"""Cutting one long row of steps into the sequences of a batch."""

from __future__ import annotations

from dataclasses import dataclass

from gradscope.errors import UsageError


@dataclass(frozen=True)
class Cut:
    """How much of a source is used: `batch` sequences of `length` steps, from its beginning."""

    batch: int
    length: int
    notes: tuple[str, ...] = ()
    consecutive: bool = False
    """Whether the sequences are stretches of one row, each beginning where the one before ends."""


def stretches(total: int, length: int | None, batch: int | None, what: str, unit: str, cap: int | None = None) -> Cut:
    """Cut `total` steps into `batch` (default 1) consecutive stretches of `length` steps.

    Without a length each stretch is as long as the source allows, and at most `cap` steps.

    Raises:
        UsageError: the source holds fewer steps than asked for, or fewer than two per sequence.
    """
    count = 1 if batch is None else batch
    share = total // count if cap is None else min(total // count, cap)
    steps = share if length is None else length
    if steps < 2:
        asked = f"; {count} sequences leave {steps} for each" if count > 1 else ""
        raise UsageError(f"{what} has {total:,} {unit}{asked}; at least 2 per sequence are needed, use a longer source")
    if steps * count > total:
        raise UsageError(_too_short(total, steps, count, what, unit))
    notes = []
    if count > 1:
        notes.append(f"{count} consecutive stretches of {steps:,} {unit}")
    if steps * count < total:
        remedy = "" if length is not None else "; --length to change"
        notes.append(f"first {steps * count:,} of {total:,} {unit}{remedy}")
    return Cut(count, steps, tuple(notes), consecutive=count > 1)


def _too_short(total: int, steps: int, count: int, what: str, unit: str) -> str:
    fits = total // count
    remedy = f"use --length {fits} or less" if fits >= 2 else f"use --batch {max(total // steps, 1)}"
    if count == 1:
        return f"{what} has {total:,} {unit}, --length {steps} needs more; {remedy}"
    return f"{what} has {total:,} {unit}, {count} stretches of {steps} need {count * steps:,}; {remedy}"

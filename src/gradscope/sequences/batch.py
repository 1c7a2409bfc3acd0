"""What a model is run on: a batch, cut out of a long row where need be, of the run's number type and device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradscope.errors import UsageError
from gradscope.registry import unknown
from gradscope.text import counted, safe_text


@dataclass(frozen=True, eq=False)
class Batch:
    """B sequences of T steps, and where they came from."""

    x: Tensor
    """Input, (B, T, F), in the dtype and on the device of the run; token ids (B, T) for a model that takes ids."""
    tokens: tuple[str, ...] | None
    """The token of each step 1..T of sequence `spec.item`, in the form that is safe to show; None unless text."""
    token_ids: Tensor | None
    """Position of each token in `vocabulary`, (B, T) int64; None unless text."""
    vocabulary: tuple[str, ...] | None
    """The distinct tokens in order of first appearance, in the form that is safe to show."""
    notes: tuple[str, ...]
    """What was assumed or done to the data, one sentence each."""
    source: str
    """`random`, `zeros`, `impulse`, `sine`, `text` or the path of the file."""
    logits: int | None = None
    """Where x holds token ids: how many there are, if the model returns a logit for each; else None."""
    has_head: bool = False
    """Whether the outputs are what a user's module answers, and not states of a recurrence."""
    asked: Tensor | None = None
    """What a task asks of each sequence, (B, answers); None without a task."""
    consecutive: bool = False
    """Whether the sequences are stretches of one row, each beginning where the one before ends."""
    is_turned: bool = False
    """Whether step 1 is the last one of the data, as a layer takes them that reads from the end."""

    def turned(self) -> Batch:
        """The same for a layer that reads every sequence from its end."""
        ids, tokens = self.token_ids, self.tokens
        return replace(
            self,
            x=self.x.flip(1),
            tokens=None if tokens is None else tokens[::-1],
            token_ids=None if ids is None else ids.flip(1),
            is_turned=not self.is_turned,
        )

    def in_order(self, targets: Tensor, *, by_step: bool) -> Tensor:
        """Targets as a file holds them, step by step or one a sequence, in the order of the steps of `x`."""
        return targets.flip(1) if self.is_turned and by_step else targets


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
    if steps < 2 or total < 2:
        asked = f"; {count} sequences leave {share} for each" if count > 1 else ""
        raise UsageError(
            f"{what} has {counted(total, unit)}{asked}; at least 2 per sequence are needed, use a longer source"
        )
    if steps * count > total:
        raise UsageError(_too_short(total, steps, count, what, unit))
    notes = []
    if count > 1:
        notes.append(f"{count} consecutive stretches of {counted(steps, unit)}")
    if steps * count < total:
        remedy = "" if length is not None else "; --length to change"
        notes.append(f"first {steps * count:,} of {counted(total, unit)}{remedy}")
    return Cut(count, steps, tuple(notes), consecutive=count > 1)


def _too_short(total: int, steps: int, count: int, what: str, unit: str) -> str:
    fits = total // count
    remedy = f"use --length {fits} or less" if fits >= 2 else f"use --batch {max(total // steps, 1)}"
    if count == 1:
        return f"{what} has {counted(total, unit)}, --length {steps} needs more; {remedy}"
    return f"{what} has {counted(total, unit)}, {count} stretches of {steps} need {count * steps:,}; {remedy}"


DTYPES: Mapping[str, torch.dtype] = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def place(x: Tensor, dtype: str, device: str) -> Tensor:
    """`x` (finite, float64) in `dtype` on `device`.

    Raises:
        UsageError: unknown dtype, a device that is not there, or a value too large for the dtype.
    """
    if dtype not in DTYPES:
        raise UsageError(unknown("dtype", dtype, DTYPES))
    converted = x.to(DTYPES[dtype])
    if not bool(converted.isfinite().all()):
        largest = x.abs().max().item()
        raise UsageError(
            f"the input reaches {largest:.3g}, too large for {dtype}; use --dtype float64 or --scale standard"
        )
    return to_device(converted, device)


def to_device(x: Tensor, device: str) -> Tensor:
    """`x` on `device`.

    Raises:
        UsageError: the device is unknown, absent, or cannot hold the dtype of `x`.
    """
    try:
        target = torch.device(device)
        moved = x.to(target)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        # torch reports unknown devices, builds without CUDA and missing float64 (mps) by four different types
        reason = safe_text(str(error).partition("\n")[0], 120)
        raise UsageError(f"cannot use device '{safe_text(device)}': {reason}; use --device cpu") from error
    if target.type == "meta":
        raise UsageError("device 'meta' holds no numbers; use --device cpu")
    return moved

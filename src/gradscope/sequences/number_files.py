"""Files of numbers as sequences: one reader per suffix, then cut, check and scale, the same for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gradscope.errors import UsageError
from gradscope.files.paths import existing_file
from gradscope.records import RunSpec
from gradscope.registry import unknown
from gradscope.sequences.batch import Batch, Cut, stretches
from gradscope.sequences.file_readers import (
    FileData,
    column_numbers,
    read_csv,
    read_npy,
    read_npz_array,
    read_pt,
    read_wav,
)
from gradscope.text import safe_text

Floats = NDArray[np.float64]


def unscaled(values: Floats, names: tuple[str, ...]) -> tuple[Floats, tuple[str, ...]]:
    """The numbers as they are."""
    return values, ()


def standard(values: Floats, names: tuple[str, ...]) -> tuple[Floats, tuple[str, ...]]:
    """Each column (last axis) minus its mean, divided by its standard deviation (divisor n).

    Both are taken over all steps used of all sequences. A constant column becomes zeros, and is named in the notes.
    """
    flat = values.reshape(-1, values.shape[-1])
    constant = flat.min(axis=0) == flat.max(axis=0)
    # powers of two change no digit and keep the squares within range
    _, exponent = np.frexp(np.abs(flat).max(axis=0))
    small = np.ldexp(flat, -exponent)
    centred = small - small.mean(axis=0)
    deviation = np.sqrt((centred**2).mean(axis=0))
    scaled = np.where(constant, 0.0, centred / np.where(constant, 1.0, deviation))
    notes: tuple[str, ...] = ("each column scaled to zero mean and unit variance over the steps used",)
    if constant.any():
        listed = [safe_text(names[i] if names else i + 1, 40) for i in np.flatnonzero(constant)]
        notes += (f"constant columns set to 0: {', '.join(listed[:8])}{' ...' if len(listed) > 8 else ''}",)
    return scaled.reshape(values.shape), notes


SCALES: Mapping[str, Callable[[Floats, tuple[str, ...]], tuple[Floats, tuple[str, ...]]]] = {
    "none": unscaled,
    "standard": standard,
}


STEPS = 2000
"""Steps used of a longer file when no length is given."""

SEQUENCES = 64
"""Sequences used of a longer file when no batch is given: as many give every number its spread in seconds."""

READERS: Mapping[str, Callable[[Path, tuple[str, ...], str], FileData]] = {
    ".csv": read_csv,
    ".npy": read_npy,
    ".npz": read_npz_array,
    ".pt": read_pt,
    ".wav": read_wav,
}


def read_numbers(name: str, columns: tuple[str, ...], flag: str) -> FileData:
    """The numbers of a file as they are stored.

    Raises:
        UsageError: missing, empty or damaged file, unknown suffix, or something other than real numbers inside.
    """
    path = existing_file(name, flag)
    suffix = path.suffix.lower()
    if suffix not in READERS:
        known = (*READERS, ".txt") if flag == "--input" else READERS
        raise UsageError(f"{flag} '{safe_text(name)}': {unknown('file type', suffix, known)}")
    data = READERS[suffix](path, columns, flag)
    if data.values.dtype.kind not in "biuf":
        remedy = "save real and imaginary parts as two features" if data.values.dtype.kind == "c" else "save numbers"
        raise UsageError(f"'{safe_text(name)}' holds {safe_text(data.values.dtype, 40)}, not real numbers; {remedy}")
    if data.values.size == 0:
        raise UsageError(f"'{safe_text(name)}' holds an empty array of shape {data.values.shape}; name another file")
    return data


def file_batch(spec: RunSpec, name: str, features: int | None, *, whole: bool = False) -> Batch:
    """The sequences of a file: (T,) is one feature, (T, F) one sequence, (B, T, F) a batch.

    Of a longer file the first 2,000 steps are used unless `spec.length` says otherwise, and of a batch the first 64
    sequences unless `spec.batch` does, or it is wanted `whole`. With `spec.batch`, a single sequence is cut into so
    many consecutive stretches.

    Raises:
        UsageError: see `read_numbers`; too few steps or sequences, NaN or Inf, or not `features` features.
    """
    shown = safe_text(name)
    data = read_numbers(name, spec.columns, "--input")
    scale = data.scale if spec.scale is None else spec.scale
    if scale not in SCALES:
        raise UsageError(unknown("scale", scale, SCALES))
    steps, names = _features(data, shown)
    if features is not None and steps.shape[-1] != features:
        raise UsageError(_wrong_features(shown, steps.shape[-1], features))
    used, cut = cut_sequences(steps, spec, shown, whole=whole)
    numbers = finite_floats(used, f"'{shown}'", names, data.factor)
    scaled, notes = SCALES[scale](numbers, names)
    x = torch.from_numpy(np.ascontiguousarray(scaled.reshape(cut.batch, cut.length, -1)))
    return Batch(
        x=x,
        tokens=None,
        token_ids=None,
        vocabulary=None,
        notes=(*data.notes, *cut.notes, *notes),
        source=shown,
        consecutive=cut.consecutive,
    )


def finite_floats(
    values: NDArray[Any],
    what: str,
    names: tuple[str, ...] = (),
    factor: float = 1.0,
    remedy: str = "fill or remove it, or choose other --columns or a shorter --length",
) -> NDArray[np.float64]:
    """`values`, (T, F) or (B, T, F), times `factor`, in float64.

    Raises:
        UsageError: NaN or Inf; the message names the first row (from 1) and column.
    """
    numbers = np.asarray(values).astype(np.float64) * factor
    bad = ~np.isfinite(numbers)
    if not bad.any():
        return numbers
    place = np.unravel_index(int(bad.argmax()), bad.shape)
    *sequence, row, column = (int(index) for index in place)
    where = f"row {row + 1}, column {_named(names, column)}" + (f" of sequence {sequence[0]}" if sequence else "")
    count = int(bad.sum())
    more = "" if count == 1 else f" (and {count - 1:,} more NaN or Inf)"
    raise UsageError(f"{what} has {numbers[place]} at {where}{more}; {remedy}")


def _named(names: tuple[str, ...], column: int) -> str:
    return f"'{safe_text(names[column], 40)}'" if names else str(column + 1)


def _features(data: FileData, shown: str) -> tuple[NDArray[Any], tuple[str, ...]]:
    values = data.values[:, None] if data.values.ndim == 1 else data.values
    if values.ndim not in (2, 3):
        raise UsageError(
            f"'{shown}' has shape {values.shape}; (steps,), (steps, features) or (batch, steps, features) is needed"
        )
    if not data.picks:
        return values, data.columns
    picked = column_numbers(data.picks, values.shape[-1], f"'{shown}'")
    return values[..., picked], tuple(str(index + 1) for index in picked)


def cut_sequences(
    steps: NDArray[Any], spec: RunSpec, shown: str, most: int | None = None, *, whole: bool = False
) -> tuple[NDArray[Any], Cut]:
    """The part of (T, F) or (B, T, F) that is used, and how it is cut.

    Args:
        steps: what the file holds.
        spec: the settings.
        shown: the file's name.
        most: steps of each sequence at most.
        whole: whether all sequences are wanted where no batch is given.
    """
    cap = min(STEPS, most or STEPS)
    if steps.ndim == 2:
        cut = stretches(len(steps), spec.length, spec.batch, f"'{shown}'", "step", cap)
        return steps[: cut.batch * cut.length], cut
    held = len(steps)
    batch = spec.batch if spec.batch is not None else held if whole else min(held, SEQUENCES)
    if batch > held:
        raise UsageError(f"'{shown}' holds {held} sequences, --batch {batch} needs more; use --batch {held} or less")
    cut = stretches(steps.shape[1], spec.length, None, f"'{shown}'", "step", cap)
    more = "" if spec.batch is not None else "; --batch takes more"
    notes = (f"first {batch:,} of {held:,} sequences{more}",) if batch < held else ()
    return steps[:batch, : cut.length], Cut(batch, cut.length, notes + cut.notes)


def _wrong_features(shown: str, held: int, needed: int) -> str:
    if held > needed >= 1:
        remedy = "choose columns with --columns"
    else:
        remedy = f"build the model with input_size={held}, or prepare a file of {needed} features"
    return f"'{shown}' has {held} features per step, the model takes {needed}; {remedy}"

"""`--target FILE`: what the outputs of a model are compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradscope.errors import UsageError
from gradscope.sequences.number_files import finite_floats, read_numbers
from gradscope.text import safe_text

MOST_CLASSES = 1_000_000


def class_targets(
    name: str, batch: int, length: int, *, consecutive: bool = False
) -> tuple[Tensor, int, tuple[str, ...]]:
    """Classes 0, 1, ... of a file, their number (the largest plus one), and notes.

    A file of shape (T,) or (B, T) gives a class per step, as (B, T); one of shape (B,) a class per sequence, as (B,).
    Where B = T the file is read as (T,). Longer files are cut to the steps and sequences used; where the sequences
    are `consecutive` stretches of one row, a row of classes beside it is cut as that is.

    Raises:
        UsageError: see `read_numbers`; another shape, or numbers that are no classes.
    """
    shown = safe_text(name)
    held = values = read_numbers(name, (), "--target").values
    if values.ndim == 2 and 1 in values.shape and values.shape != (batch, length):
        values = values.reshape(-1)  # one column of a table
    values, cut = _in_stretches(values, batch, length, shown) if consecutive else (values, ())
    found = _classes_in_use(values, batch, length, shown)
    if found is None:
        raise UsageError(_misfit(shown, held, batch, length, "(T,), (B, T) or (B,)"))
    used, notes = found
    wrong = (used != np.floor(used)) | (used < 0) | (used >= MOST_CLASSES)
    if wrong.any():
        value = used.reshape(-1)[int(wrong.argmax())]
        raise UsageError(
            f"--target '{shown}' has {value:g}, classes are whole numbers from 0; use --loss mse for values"
        )
    classes = int(used.max()) + 1
    if classes < 2:
        raise UsageError(
            f"--target '{shown}' holds class 0 alone, which leaves nothing to learn; at least 2 are needed"
        )
    return torch.from_numpy(used.astype(np.int64)), classes, cut + notes


def value_targets(name: str, batch: int, length: int, *, consecutive: bool = False) -> tuple[Tensor, tuple[str, ...]]:
    """Values of a file of shape (T,), (T, F'), (B, T) or (B, T, F'), as (B, T, F') in float64, and notes.

    A matrix is (B, T), a value for each sequence and step, where its sizes say so, as x does. One of shape (B,) or
    (B, 1), where B is not T, gives a value per sequence, as (B, 1). Where the sequences are `consecutive` stretches of
    one row, (rows,) and (rows, F') beside it are cut as that is.

    Raises:
        UsageError: see `read_numbers`; another shape, NaN or Inf, or too few steps.
    """
    shown = safe_text(name)
    held = values = read_numbers(name, (), "--target").values
    if values.shape in ((batch,), (batch, 1)) and batch != length:
        once = _finite(values.reshape(-1, 1), shown)
        return torch.from_numpy(once), ("one target value per sequence",)
    if values.ndim == 1:
        values = values[:, None]
    values, cut = _in_stretches(values, batch, length, shown) if consecutive else (values, ())
    if values.ndim == 2:
        values = values[..., None] if _by_step(values.shape, batch, length) else values[None]
    if values.ndim != 3 or values.shape[1] < length or not (len(values) == 1 or len(values) >= batch):
        raise UsageError(_misfit(shown, held, batch, length, "(T,), (T, F), (B, T), (B, T, F) or (B,)"))
    notes = cut + _cut_note("steps", length, values.shape[1]) + _cut_note("sequences", batch, len(values))
    if len(values) == 1 and batch > 1:
        notes += _shared(batch)
    used = _finite(values[:batch, :length], shown)
    return torch.from_numpy(used).expand(batch, -1, -1), notes


def _finite(values: NDArray[Any], shown: str) -> NDArray[np.float64]:
    return finite_floats(values, f"--target '{shown}'", remedy="fill or remove it, or choose a shorter --length")


def _in_stretches(values: NDArray[Any], batch: int, length: int, shown: str) -> tuple[NDArray[Any], tuple[str, ...]]:
    """A row of answers, (rows,) or (rows, F), as the (B, T, ...) that its input was cut into; other shapes as they are.

    Raises:
        UsageError: a row that ends within the input's stretches.
    """
    rows, needed = len(values), batch * length
    one_each = values.ndim == 2 and _by_step(values.shape, batch, length)
    if values.ndim > 2 or one_each or rows <= max(batch, length):
        return values, ()
    if rows < needed:
        raise UsageError(
            f"--target '{shown}' has {rows:,} steps, the input's {batch} stretches of {length:,} need {needed:,}; "
            "give an answer for each"
        )
    notes = (f"the target is cut into the input's {batch} stretches", *_cut_note("steps", needed, rows))
    return values[:needed].reshape(batch, length, *values.shape[1:]), notes


def _by_step(held: tuple[int, ...], batch: int, length: int) -> bool:
    """Whether a matrix holds one value for each of several sequences and steps, in rows as x has them."""
    rows, columns = held
    whole = columns == length and rows >= batch
    return batch > 1 and (whole or (rows == batch != length and columns > length))


def _classes_in_use(
    values: NDArray[Any], batch: int, length: int, shown: str
) -> tuple[NDArray[np.float64], tuple[str, ...]] | None:
    """Classes by sequence, or by step, and notes; None for another shape."""
    held = values.shape
    if len(held) == 1 and (held[0] == length or (batch == 1 and held[0] > length)):
        row = _finite(values[:length, None], shown)[:, 0]
        notes = _cut_note("steps", length, held[0]) + (_shared(batch) if batch > 1 else ())
        return np.broadcast_to(row, (batch, length)).copy(), notes
    if held == (batch,):
        return _finite(values[:, None], shown)[:, 0], ("one target class per sequence",)
    if len(held) == 2 and held[0] >= batch and held[1] >= length:
        notes = _cut_note("steps", length, held[1]) + _cut_note("sequences", batch, held[0])
        return _finite(values[:batch, :length].T, shown).T.copy(), notes
    return None


def _cut_note(unit: str, used: int, held: int) -> tuple[str, ...]:
    return (f"first {used:,} of {held:,} {unit} of the target",) if used < held else ()


def _shared(batch: int) -> tuple[str, ...]:
    return (f"all {batch} sequences share one target",)


def _misfit(shown: str, values: NDArray[Any], batch: int, length: int, shapes: str) -> str:
    sizes = f"B={batch} sequences of T={length} steps"
    return f"--target '{shown}' has shape {values.shape}, {sizes} need {shapes}; cut or reshape the target"

"""`--scale`: what is done to the columns of a file before a model sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

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

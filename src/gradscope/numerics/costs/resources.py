"""The memory that a run will need, and how many threads the work is worth."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from gradscope.chain import ArrayChain
from gradscope.errors import UsageError
from gradscope.memory import MARGIN, available_bytes
from gradscope.models.direct import Direct


def needed_bytes(model: Any, sequences: int, length: int) -> int:
    """Bytes that the forward and backward passes keep, from the sizes alone; spectra are bounded elsewhere."""
    if isinstance(model, ArrayChain):
        return 0
    size, features = int(getattr(model, "state_size", 0)), int(model.input_size)
    weights = sum(int(parameter.numel()) for parameter in model.parameters().values())
    if isinstance(model, Direct):
        depth = int(getattr(model.module, "depth", 1))
        heads = max((int(getattr(part, "heads", 1)) for part in model.module.modules()), default=1)
        # Kept for the backward pass: scores and weights of every head and layer, and some forty rows of each step.
        kept = 2 * depth * heads * length**2 + 40 * depth * length * max(features, 64)
        return 8 * (sequences * kept + 3 * weights)
    # States, gates and their slopes are kept for every step: about ten numbers per number of state.
    return 8 * (sequences * length * (10 * size + 2 * features) + 3 * weights)


def require_memory(model: Any, sequences: int, length: int, seeds: int = 1) -> None:
    """Refuse what does not fit. The forward passes of all seeds are kept, for the backward passes after them.

    Raises:
        UsageError: with the bytes needed, those there are, and the length that fits.
    """
    needed, there = needed_bytes(model, seeds * sequences, length), available_bytes()
    if there is None or needed <= MARGIN * there:
        return
    fits = length
    while fits > 2 and needed_bytes(model, seeds * sequences, fits) > MARGIN * there:
        fits //= 2
    have = f"about {needed / 2**30:.1f} GiB and {there / 2**30:.1f} GiB are free"
    remedy = f"--length {fits} fits, and so does a smaller --batch" + (" or fewer --seeds" if seeds > 1 else "")
    times = f"{seeds} seeds x " if seeds > 1 else ""
    raise UsageError(f"{times}{sequences} sequences of {length} steps need {have}; {remedy}")


SMALL = 256


@contextmanager
def threads_for(size: int) -> Iterator[None]:
    """One thread for states up to `SMALL` numbers, torch's own choice beyond; what was set comes back afterwards.

    A step of a small recurrence takes microseconds: handing it to several threads costs more than it gains, and on a
    busy machine their waiting for each other was seen to take a hundred times longer than the work.
    """
    before = torch.get_num_threads()
    if size <= SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

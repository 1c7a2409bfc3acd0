"""How many threads the work is worth."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

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

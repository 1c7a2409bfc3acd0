"""Where the user's code is looked for."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def searched(folders: Sequence[str]) -> Iterator[None]:
    """Look for modules in these folders too, after all others: nothing in them can stand in for a library."""
    before = list(sys.path)
    sys.path.extend(folder for folder in folders if folder not in before)
    try:
        yield
    finally:
        sys.path[:] = before

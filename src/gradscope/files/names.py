"""Names that a file may hold once only."""

from __future__ import annotations

from collections.abc import Iterable


def first_twice(names: Iterable[str]) -> str | None:
    """The first name that was there before; None where each comes once."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None

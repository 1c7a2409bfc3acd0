"""A linear recurrent unit of as many parameters, its eigenvalues on a ring that holds for the needed lag."""

from __future__ import annotations

from gradscope.fixes.remedy import Remedy
from gradscope.fixes.swap import swapped


def ring(lag: int) -> dict[str, str]:
    """|lambda| from a half-life of the lag to ten times that."""
    inner = min(0.5 ** (1 / max(lag, 1)), 0.9999)
    return {"r_min": f"{inner:.4f}", "r_max": f"{1 - (1 - inner) / 10:.5f}"}


REMEDY = Remedy("lru instead", "a linear recurrence whose eigenvalues lie where one wants them", swapped("lru", ring))

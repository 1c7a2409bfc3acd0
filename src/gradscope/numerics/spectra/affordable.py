"""How much is measured by default: whole spectra up to a limit of work and memory, the leading directions beyond."""

from __future__ import annotations

FULL_WORK = 4e9
"""T N^3 up to which whole spectra are computed by default; beyond it, the leading `LEADING` directions."""
DENSE_NUMBERS = 2**26
"""Entries of all Jacobians together up to which they are kept at once (512 MiB)."""
LEADING = 16


def too_much(length: int, size: int) -> str:
    """Why only the leading directions of T Jacobians (N, N) are measured: the work or the memory of the whole."""
    work, numbers = length * size**3, length * size**2
    takes = f"cost T N^3 = {work:.1e} (the limit is {FULL_WORK:.0e})"
    if work <= FULL_WORK:
        takes = f"keep {8 * numbers / 2**30:.1f} GiB of Jacobians (the limit is {8 * DENSE_NUMBERS / 2**30:.1f})"
    what = f"whole spectra of a state of {size} over {length} steps would {takes}"
    return f"{what}, so only the leading {LEADING} directions are measured"

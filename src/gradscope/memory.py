"""How much memory there still is."""

from __future__ import annotations

import os
from pathlib import Path

MARGIN = 0.9
"""The share of it that a request may take."""

GROUP = Path("/sys/fs/cgroup")


def available_bytes() -> int | None:
    """Memory that can still be had: the least of what the machine and its control group leave; None if unknown."""
    found = []
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        if "MemAvailable" in lines:
            found.append(int(lines["MemAvailable"].split()[0]) * 1024)
    limit, used = GROUP / "memory.max", GROUP / "memory.current"
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()) != "max":
        found.append(int(text) - int(used.read_text()) + _cached())
    if not found and "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(found, default=None)


def _cached() -> int:
    """Copies of files that the control group counts as used, and gives up as soon as memory is asked for."""
    stat = GROUP / "memory.stat"
    lines = stat.read_text().splitlines() if stat.is_file() else []
    return sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))

"""What holds for every test: one thread, and the same examples on every run."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

settings.register_profile("gradscope", deadline=None, derandomize=True, database=None)
settings.load_profile("gradscope")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One worker more than there are processors: some tests wait for clocks and killed processes."""
    return min((os.cpu_count() or 1) + 1, 4)

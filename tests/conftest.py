"""What holds for every test: one thread, and the same examples on every run."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

settings.register_profile("gradscope", deadline=None, derandomize=True, database=None)
settings.load_profile("gradscope")

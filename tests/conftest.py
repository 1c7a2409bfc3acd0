"""What holds for every test: one thread, the same examples on every run, and processes that hear Ctrl-C."""

from __future__ import annotations

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

settings.register_profile("gradscope", deadline=None, derandomize=True, database=None)
settings.load_profile("gradscope")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started as `nohup pytest ... &`: what a process ignores, those that it starts ignore too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

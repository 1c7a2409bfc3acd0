"""The kind of lags that the data have."""

from __future__ import annotations

from gradscope.numerics.analysis import Analysis
from gradscope.sequences.tasks.find import kind_of, task_of


def measure(analysis: Analysis) -> str:
    """`fixed` or `spread`: as asked for, else the task's own, else fixed."""
    spec = analysis.spec
    return kind_of(spec, task_of(spec)) if spec.task is not None else spec.lags or "fixed"

"""The task that a run names, and the kind of lags it has there."""

from __future__ import annotations

from gradscope.errors import UsageError
from gradscope.records import RunSpec
from gradscope.registry import TASKS, resolve, unknown
from gradscope.sequences.tasks.own import own_task
from gradscope.sequences.tasks.task import Kind, Task


def task_of(spec: RunSpec) -> Task:
    """The task of `spec.task`, which can have the needed lag and the kind of lags asked for.

    Raises:
        UsageError: no such task, or not at this lag or of this kind.
    """
    name, lag = spec.task or "", spec.needs_lag or 1
    found: Task = own_task(name, lag) if ".py:" in name else resolve(TASKS, name, "task")
    if lag < found.shortest:
        raise UsageError(f"task '{found.name}' cannot have a lag of {lag}; give --lag {found.shortest} or more")
    if spec.lags is not None and spec.lags not in found.kinds:
        raise UsageError(f"{unknown('kind of lags', spec.lags, found.kinds)} of task '{found.name}'")
    return found


def kind_of(spec: RunSpec, task: Task) -> Kind:
    """The kind of lags asked for, else the task's first."""
    return next(kind for kind in task.kinds if spec.lags in (None, kind))

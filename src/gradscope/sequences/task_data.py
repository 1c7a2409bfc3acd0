"""Sequences of a task, in the shape that a model takes."""

from __future__ import annotations

import math

import torch

from gradscope.errors import UsageError
from gradscope.models.token_ids import TokenIds
from gradscope.records import RunSpec
from gradscope.sequences.batch import Batch
from gradscope.sequences.placement import place, to_device
from gradscope.sequences.streams import normal
from gradscope.sequences.tasks.find import kind_of, task_of

SEQUENCES = 32
"""Where nothing says how many: the share of a gradient is a mean over them."""


def task_batch(spec: RunSpec, seed: int, input_size: int | None, ids: TokenIds | None) -> Batch:
    """Sequences of `spec.task` at the needed lag.

    A model of other features gets them through a seeded linear map, one of token ids the task's symbols as ids.

    Raises:
        UsageError: the task cannot be had, or shows no symbols to a model of token ids.
    """
    task, lag = task_of(spec), spec.needs_lag or 1
    drawn = task.draw(torch.Generator().manual_seed(seed), spec.batch or SEQUENCES, lag, kind_of(spec, task))
    x = drawn.x
    notes: tuple[str, ...] = (f"task {task.name}: {task.summary}, lags {kind_of(spec, task)}",)
    if ids is not None:
        if not task.symbols:
            raise UsageError(f"task '{task.name}' shows numbers, the model takes token ids; use --task recall")
        x = to_device(x.argmax(-1), spec.device)
        return Batch(x, None, None, None, notes, "task", asked=drawn.target)
    if input_size not in (None, task.features):
        assert input_size is not None
        front = normal(seed, "front", size=(task.features, input_size)) / math.sqrt(task.features)
        x, notes = x.double() @ front, (*notes, f"{task.features} features enter as {input_size}, by a seeded map")
    return Batch(place(x, spec.dtype, spec.device), None, None, None, notes, "task", asked=drawn.target)

"""A task of the user's own: `path/to/file.py:task`, a function task(batch, lag, generator) -> (x, target)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradscope.errors import UsageError
from gradscope.isolation.user_code import load_function, user_code
from gradscope.sequences.tasks.task import Kind, Samples, Task
from gradscope.text import safe_text

TRIED = 1024
"""Samples that say how many classes there are, and what the best blind answer is worth."""


def own_task(reference: str, lag: int) -> Task:
    """The task that `path/to/file.py:function` names; its sizes are taken from samples of it.

    The function returns x (batch, T, features), real, and target: classes (batch,), int64, or values (batch,), real,
    to be answered at the last step. Its kind of lags is taken to be fixed unless told otherwise.

    Raises:
        UsageError: no such function, or what it returns cannot be used.
    """
    function, shown = load_function(reference, "--task"), safe_text(reference)

    def draw(generator: torch.Generator, batch: int, lag: int, kind: Kind) -> Samples:
        with user_code(f"--task '{shown}', called as task(batch, lag, generator),"):
            found = function(batch, lag, generator)
        samples = _samples(found, batch, lag, shown)
        if classes and not samples.target.is_floating_point() and (largest := int(samples.target.max())) >= classes[0]:
            raise UsageError(
                f"--task '{shown}' returned class {largest}, which none of {TRIED} samples had before; draw every "
                "class at least once in a hundred samples"
            )
        return samples

    classes: list[int] = []
    tried = draw(torch.Generator().manual_seed(0), TRIED, lag, "fixed")
    if values := tried.target.is_floating_point():
        spread = float(tried.target.double().var(unbiased=False))
        if spread == 0:
            raise UsageError(f"--task '{shown}' asks for the same number in all of {TRIED} samples; nothing to learn")
        outputs, goal, chance = 1, spread / 10, spread
    else:
        outputs = int(tried.target.max()) + 1
        classes.append(outputs)
        chance = 1 - float(tried.target.flatten().bincount().max()) / TRIED
        goal = chance / 5
        if outputs < 2:
            raise UsageError(f"--task '{shown}' has one class in {TRIED} samples; nothing to learn")
    return Task(
        shown,
        f"the task of {shown}",
        features=tried.x.shape[-1],
        outputs=outputs,
        kinds=("fixed", "spread"),
        draw=draw,
        goal=goal,
        chance=chance,
        values=values,
        symbols=False,
    )


def _samples(found: Any, batch: int, lag: int, shown: str) -> Samples:
    wanted = (
        "a task is a function task(batch, lag, generator) -> (x, target) with x (batch, T, features), real, and target "
        "(batch,), classes or numbers"
    )
    if not (isinstance(found, tuple) and len(found) == 2 and all(isinstance(part, Tensor) for part in found)):
        raise UsageError(f"--task '{shown}' returned {type(found).__name__}; {wanted}")
    x, given = found
    target = given[:, None] if given.ndim == 1 else given
    if target.is_complex():
        raise UsageError(f"--task '{shown}' returned complex targets; {wanted}")
    if x.ndim != 3 or len(x) != batch or not x.is_floating_point() or target.shape != (batch, 1):
        types = (f"{name} {tuple(one.shape)} of {str(one.dtype)[6:]}" for name, one in (("x", x), ("target", given)))
        raise UsageError(f"--task '{shown}' returned {' and '.join(types)}; {wanted}")
    if x.shape[1] <= lag:
        raise UsageError(f"--task '{shown}' has {x.shape[1]} steps, a lag of {lag} needs {lag + 1}; make it longer")
    for name, one in (("x", x), ("target", target)):
        if not bool(one.isfinite().all()):
            raise UsageError(f"--task '{shown}' returned a {name} that is not finite")
    if not target.is_floating_point() and int(target.min()) < 0:
        raise UsageError(f"--task '{shown}' returned class {int(target.min())}; classes are whole numbers from 0")
    return Samples(x.float(), target.float() if target.is_floating_point() else target.long())

"""Tasks that need exactly a given lag: what they are, which one a run names, and a user's own.

The *kind of lags* of a task is `fixed` where every sample needs the same long lag, and `spread` where shorter ones
occur too: gradients at the long lag alone decide the first, the second is opened by its short samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from gradscope.errors import UsageError
from gradscope.isolation.user_code import load_function, user_code
from gradscope.records import RunSpec
from gradscope.registry import TASKS, resolve, unknown
from gradscope.text import safe_text

LagKind = Literal["fixed", "spread"]
Unit = Literal["wrong", "mse", "nats"]


@dataclass(frozen=True)
class Samples:
    """A batch of a task."""

    x: Tensor
    """(batch, T, features), float32."""
    target: Tensor
    """What the last steps have to answer: classes (batch, answers), int64, or values, float32, (batch, answers) or
    (batch, answers, outputs)."""


Draw = Callable[[torch.Generator, int, int, LagKind], Samples]


@dataclass(frozen=True)
class Task:
    """A task at any lag."""

    name: str
    summary: str
    features: int
    """Numbers per step."""
    outputs: int
    """Classes, or 1 for a value."""
    kinds: tuple[LagKind, ...]
    """The kinds of lags it can have; the first is meant where none is said."""
    draw: Draw
    """(generator, batch, lag, kind) -> samples."""
    goal: float
    """Error at and below which it counts as learned; NaN where that has to be measured first."""
    chance: float
    """Error of the best answer that reads no input."""
    answers: int = 1
    """How many of the last steps are read."""
    values: bool = False
    """Whether the answer is a number, not a class."""
    symbols: bool = True
    """Whether each step shows one of so many symbols (a one-hot part first), as a model of token ids can take it."""
    shortest: int = 1
    """Least lag it can have."""
    in_nats: bool = False
    """Whether errors are the loss itself, and not the share of wrong classes."""
    notes: tuple[str, ...] = ()
    """How the user's data were read, one sentence each."""
    draw_apart: Draw | None = None
    """Draws what errors are measured on; None: as what is trained on."""

    @property
    def unit(self) -> Unit:
        """Of errors."""
        return "mse" if self.values else "nats" if self.in_nats else "wrong"

    def loss(self, read: Tensor, target: Tensor) -> Tensor:
        """Mean loss over the batch.

        Args:
            read: the readout at the last `answers` steps, (..., batch, answers, outputs).
            target: (..., batch, answers), or values (..., batch, answers, outputs).

        Returns:
            (...): cross-entropy in nats, or mean squared error.
        """
        if self.values:
            asked = target if target.ndim == read.ndim else target[..., None]
            return (read - asked).square().mean((-3, -2, -1))
        flat = functional.cross_entropy(read.reshape(-1, self.outputs), target.reshape(-1), reduction="none")
        return flat.reshape(target.shape).mean((-2, -1))

    def error(self, read: Tensor, target: Tensor) -> Tensor:
        """Share of wrong classes, or the loss, (...)."""
        if self.unit != "wrong":
            return self.loss(read, target)
        return (read.argmax(-1) != target).float().mean((-2, -1))


def one_hot(ids: Tensor, count: int) -> Tensor:
    """Symbols as float32 features, (..., count)."""
    return functional.one_hot(ids, count).float()


def place(generator: torch.Generator, batch: int, lag: int, kind: LagKind) -> Tensor:
    """Index (from 0) of what has to be remembered among lag + 1 steps, (batch,): the first, or any but the last."""
    if kind == "fixed":
        return torch.zeros(batch, dtype=torch.int64)
    return torch.randint(lag, (batch,), generator=generator)


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

    def draw(generator: torch.Generator, batch: int, lag: int, kind: LagKind) -> Samples:
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


def kind_of(spec: RunSpec, task: Task) -> LagKind:
    """The kind of lags asked for, else the task's first."""
    return next(kind for kind in task.kinds if spec.lags in (None, kind))

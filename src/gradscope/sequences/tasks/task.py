"""What a task is: samples whose answer needs an input that lies a given number of steps back, and when it is learned.

The *kind of lags* of a task is `fixed` where every sample needs the same long lag, and `spread` where shorter ones
occur too: gradients at the long lag alone decide the first, the second is opened by its short samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Kind = Literal["fixed", "spread"]
Unit = Literal["wrong", "mse", "nats"]


@dataclass(frozen=True)
class Samples:
    """A batch of a task."""

    x: Tensor
    """(batch, T, features), float32."""
    target: Tensor
    """What the last steps have to answer: classes (batch, answers), int64, or values, float32, (batch, answers) or
    (batch, answers, outputs)."""


Draw = Callable[[torch.Generator, int, int, Kind], Samples]


@dataclass(frozen=True)
class Task:
    """A task at any lag."""

    name: str
    summary: str
    features: int
    """Numbers per step."""
    outputs: int
    """Classes, or 1 for a value."""
    kinds: tuple[Kind, ...]
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


def place(generator: torch.Generator, batch: int, lag: int, kind: Kind) -> Tensor:
    """Index (from 0) of what has to be remembered among lag + 1 steps, (batch,): the first, or any but the last."""
    if kind == "fixed":
        return torch.zeros(batch, dtype=torch.int64)
    return torch.randint(lag, (batch,), generator=generator)

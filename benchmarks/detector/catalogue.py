"""What is trained, and what is held out. Frozen before the first run: change it and every result is void."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from gradscope.sequences.tasks import LagKind

HIDDEN = 32
STEPS = 800
RATES = (3e-3, 1e-2)
SEEDS = (0, 1)
CLIP = 1.0
LOOK = 100
"""Steps of the probe whose outcome is scored beside the statistics at initialisation."""

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "rnn": (
        "rnn",
        "rnn:init=orthogonal",
        "rnn:init=normal,gain=0.5",
        "rnn:init=normal,gain=0.9",
        "rnn:init=normal,gain=1.2",
        "rnn:init=normal,gain=1.5",
    ),
    "irnn": ("rnn:nonlinearity=relu,init=identity", "rnn:nonlinearity=relu", "rnn:nonlinearity=relu,init=orthogonal"),
    "lstm": ("lstm", "lstm:forget_bias=1", "lstm:forget_bias=2", "lstm:forget_bias=4", "lstm:forget_bias=6"),
    "gru": ("gru", "gru:update_bias=1", "gru:update_bias=2", "gru:update_bias=4", "gru:update_bias=6"),
    "lru": ("lru", "lru:r_min=0.5,r_max=0.8", "lru:r_min=0.8,r_max=0.95", "lru:r_min=0.99,r_max=0.999"),
    "attention": ("attention",),
    "transformer": ("transformer",),
}
TASKS: tuple[tuple[str, LagKind], ...] = (
    ("recall", "fixed"),
    ("adding", "fixed"),
    ("adding", "spread"),
    ("copy", "fixed"),
    ("xor", "fixed"),
    ("recall", "spread"),
    ("parity", "fixed"),
)
LAGS = (10, 20, 50, 100, 200)

HELD_OUT_FAMILIES = ("gru", "lru", "transformer")
HELD_OUT_TASKS = ("copy", "xor")
HELD_OUT_LAGS = (50,)
CONTROLS = ("parity",)
"""Tasks that fail for other reasons than gradients: reported by themselves."""
LONGEST: Mapping[str, int] = {"lstm": 100, "gru": 100, "lru": 100, "attention": 50, "transformer": 50}
"""Lags beyond which a family is left out for what it costs."""
Part = Literal["calibration", "held out", "control"]


@dataclass(frozen=True)
class Combination:
    """One model on one task at one lag."""

    family: str
    model: str
    task: str
    kind: LagKind
    lag: int

    @property
    def name(self) -> str:
        """`lstm:forget_bias=4 recall fixed 100`."""
        return f"{self.model} {self.task} {self.kind} {self.lag}"

    @property
    def part(self) -> Part:
        """Where it belongs."""
        if self.task in CONTROLS:
            return "control"
        out = self.family in HELD_OUT_FAMILIES or self.task in HELD_OUT_TASKS or self.lag in HELD_OUT_LAGS
        return "held out" if out else "calibration"

    def record(self) -> dict[str, object]:
        """As it stands in a line of results."""
        return {**asdict(self), "part": self.part}


def combinations() -> list[Combination]:
    """All of them, in an order in which any beginning is a fair sample: shuffled by seed 0."""
    wanted = [
        one
        for one in grid(FAMILIES, TASKS, LAGS)
        if one.lag <= LONGEST.get(one.family, one.lag) and (one.task != "parity" or one.lag <= 50)
    ]
    random.Random(0).shuffle(wanted)
    return wanted


def grid(
    families: Mapping[str, Sequence[str]], tasks: Sequence[tuple[str, LagKind]], lags: Sequence[int]
) -> list[Combination]:
    """Every model on every task at every lag, in that order."""
    return [
        Combination(family, model, task, kind, lag)
        for family, models in families.items()
        for model in models
        for task, kind in tasks
        for lag in lags
    ]

"""Short trainings: every setting on fresh samples of a task, until it is learned or the steps are used up."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from gradscope.probe.learners import Learners, sight
from gradscope.sequences.tasks import LagKind, Samples, Task
from gradscope.trained import Sighting

BATCH = 32
HELD_OUT = 256
"""Samples that errors are measured on."""
EVERY = 25
"""Steps between two looks at the error."""
Told = Callable[[int, int], None]


@dataclass(frozen=True)
class Setting:
    """How one run is trained: Adam with its default moments."""

    rate: float
    """Learning rate."""
    seed: int
    """Of weights, readout and samples."""
    clip: float | None = 1.0
    """Largest norm of the gradient; None leaves it as it is."""


@dataclass
class Curve:
    """What became of one run."""

    setting: Setting
    steps: list[int] = field(default_factory=list)
    """Training steps after which the error was measured."""
    errors: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    """Mean training loss since the look before."""
    norms: list[float] = field(default_factory=list)
    """Largest norm of the gradient from each look to the next, before clipping."""
    clipped: int = 0
    """Steps at which it was clipped."""
    trained: int = 0
    """Steps taken."""
    learned_at: int | None = None
    """Step at which the error was at the goal; None: not within the steps taken."""
    lost_at: int | None = None
    """Step at which loss or gradient were no longer finite, after which nothing was trained."""
    sights: list[Sighting] = field(default_factory=list)
    """How far back the gradient reached on the way, at steps 0, 1, 2, 5, 10, 20, 50 ..."""


@dataclass(frozen=True)
class Plan:
    """What is trained on."""

    task: Task
    lag: int
    kind: LagKind
    steps: int
    taught: LagKind | None = None
    """The kind of lags of the samples trained on, where it is another than that of the samples held out."""
    everywhere: bool = False
    """Whether the loss asks for the answer at every step too."""


class Training:
    """A training that can be looked at while it runs."""

    def __init__(
        self,
        learners: Learners,
        plan: Plan,
        settings: Sequence[Setting],
        *,
        look: bool = True,
        one_is_enough: bool = False,
    ) -> None:
        """Prepare; nothing is trained yet.

        Args:
            learners: one for each setting.
            plan: what is trained on.
            settings: how.
            look: whether to measure on the way how far back the gradient reaches.
            one_is_enough: whether all settings of a seed and a clipping stop once one of them has learned.
        """
        self.learners, self.plan, self.look, self.one_is_enough = learners, plan, look, one_is_enough
        self.curves = [Curve(setting) for setting in settings]
        groups = [{"params": learners.leaves(run), "lr": one.rate} for run, one in enumerate(settings)]
        self.optimizer = torch.optim.Adam(groups, fused=True)
        self.streams = {seed: torch.Generator().manual_seed(seed) for seed in {one.seed for one in settings}}
        held = torch.Generator().manual_seed(2**40)
        draw = plan.task.draw_apart or plan.task.draw
        self.held_out = draw(held, HELD_OUT, plan.lag, plan.kind)
        self.watched = draw(held, BATCH, plan.lag, plan.kind)
        self.active = list(range(len(settings)))
        self._sums = [0.0] * len(settings)

    def run(self, told: Told = lambda done, of: None) -> list[Curve]:
        """Train to the end."""
        self._evaluate(0)
        for step in range(1, self.plan.steps + 1):
            if not self.active:
                break
            self._step(step)
            if step in LOOKS and self.look:
                self._see(step)
            if step % EVERY == 0 or step == self.plan.steps:
                self._evaluate(step)
            told(step, self.plan.steps)
        return self.curves

    def _samples(self) -> list[Samples]:
        drawn = {
            seed: self.plan.task.draw(stream, BATCH, self.plan.lag, self.plan.taught or self.plan.kind)
            for seed, stream in self.streams.items()
        }
        return [drawn[self.curves[run].setting.seed] for run in self.active]

    def _step(self, step: int) -> None:
        self.optimizer.zero_grad()
        losses = self.learners.loss(self._samples(), self.active, everywhere=self.plan.everywhere)
        losses.sum().backward()
        for place, run in enumerate(list(self.active)):
            curve, leaves = self.curves[run], self.learners.leaves(run)
            norm = float(nn.utils.get_total_norm([leaf.grad for leaf in leaves if leaf.grad is not None]))
            loss = float(losses[place].detach())
            if not (math.isfinite(norm) and math.isfinite(loss)):
                curve.lost_at = step
                self._leave(run)
                continue
            if curve.setting.clip is not None:
                nn.utils.clip_grads_with_norm_(leaves, curve.setting.clip, torch.tensor(norm))
                curve.clipped += norm > curve.setting.clip
            curve.trained = step
            self._sums[run] += loss
            curve.norms[-1] = max(curve.norms[-1], norm)
        self.optimizer.step()

    def _leave(self, run: int) -> None:
        self.active.remove(run)
        for leaf in self.learners.leaves(run):
            leaf.grad = None

    def _evaluate(self, step: int) -> None:
        if not self.active:
            return
        errors = self.learners.error(self.held_out, self.active).tolist()
        if step == 0 and self.look:
            self._see(0)
        for run, error in zip(list(self.active), errors, strict=True):
            curve, since = self.curves[run], step - (self.curves[run].steps[-1] if self.curves[run].steps else 0)
            curve.steps.append(step)
            curve.errors.append(error)
            curve.losses.append(self._sums[run] / since if since else math.nan)
            self._sums[run] = 0.0
            curve.norms.append(0.0)
            if error <= self.plan.task.goal and step:
                curve.learned_at = step
                self._leave(run)
        if self.one_is_enough:
            done = {_alike(curve.setting) for curve in self.curves if curve.learned_at is not None}
            for run in [run for run in self.active if _alike(self.curves[run].setting) in done]:
                self._leave(run)

    def _see(self, step: int) -> None:
        if not self.active:
            return
        seen = sight(self.learners, self.watched, self.active, self.plan.lag, step)
        for run, one in zip(self.active, seen, strict=True):
            self.curves[run].sights.append(one)


def _alike(setting: Setting) -> tuple[int, float | None]:
    """What settings share that differ in their learning rate alone."""
    return setting.seed, setting.clip


LOOKS = frozenset(base * 10**power for power in range(7) for base in (1, 2, 5))

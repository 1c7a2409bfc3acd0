"""Copies of a model on a task: an input layer, the copies, a readout; and how far back their loss reaches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradscope.metrics.influence import reach_of, slopes
from gradscope.numerics.logscale import log10_norm, log10_sum
from gradscope.probe.copies import Copies
from gradscope.sequences.losses import unmasked
from gradscope.sequences.synthetic import normal
from gradscope.sequences.tasks import Samples, Task
from gradscope.trained import Sighting


@dataclass(frozen=True)
class Flow:
    """log10 ||dl/dx|| by lag 0, 1, ... of each run, (R, lags); lags are counted from the first step that answers."""

    arithmetic: Tensor
    """Mean over sequences."""
    geometric: Tensor
    """Geometric mean over sequences."""
    whole: Tensor
    """log10 of the arithmetic means summed over all steps, (R,)."""


def flow(learners: Learners, samples: Samples, runs: Sequence[int]) -> Flow:
    """How much of the training loss arrives at each input, in float64 where the model allows it."""
    x = samples.x.double().expand(len(runs), *samples.x.shape).clone().requires_grad_()
    target = samples.target.expand(len(runs), *samples.target.shape)
    target = target.double() if target.is_floating_point() else target
    with learners.copies.precise():
        loss = learners.task.loss(learners.read(x, runs), target).sum()
        (grad,) = torch.autograd.grad(loss, x)
    norms = log10_norm(grad)
    over = log10_sum(norms, 1) - math.log10(norms.shape[1])
    newest = grad.shape[2] - learners.task.answers + 1
    by_lag = [part[:, :newest].flip(1) for part in (over, norms.mean(1))]
    return Flow(by_lag[0], by_lag[1], log10_sum(over, 1))


def sight(learners: Learners, samples: Samples, runs: Sequence[int], lag: int, step: int) -> list[Sighting]:
    """Share at the needed lag, reach and rate of each run at a training step; of a model of token ids nothing is known.

    Reach and rate are those of the analysis, of the training loss's own ||dl/dx|| in the place of the influence.
    """
    if learners.as_ids:
        return [Sighting(step, None, None, None) for _ in runs]
    seen = flow(learners, samples, runs)
    # As in the analysis: what lies further back than the needed lag is no competitor.
    shares = (seen.arithmetic[:, lag] - log10_sum(seen.arithmetic[:, : lag + 1], 1)).tolist()
    rates = [slopes(lags[None, 1 : lag + 1] * math.log(10)) for lags in seen.geometric]
    return [
        Sighting(step, _known(share), reach_of(lags), _known(*rate))
        for share, lags, rate in zip(shares, seen.geometric, rates, strict=True)
    ]


def _known(value: float = math.nan) -> float | None:
    return None if math.isnan(value) else value


class Learners:
    """As many independent learners as `seeds`, each with front and readout drawn from its seed."""

    def __init__(self, copies: Copies, task: Task, seeds: Sequence[int], *, takes: int | None, as_ids: bool) -> None:
        """Add what the task needs around the copies.

        Args:
            copies: one for each seed.
            task: what is learned.
            seeds: of readouts.
            takes: features per step that the model demands; None where it was built for the task.
            as_ids: whether it takes token ids: the symbols of the task.
        """
        self.copies, self.task, self.as_ids = copies, task, as_ids
        self.has_front = not as_ids and takes is not None and takes != task.features
        # A head of the task's own size is the user's own readout.
        self.has_readout = copies.output_size != task.outputs
        size, width = copies.output_size, takes or 0
        self.fronts = [_matrix(seed, "front", task.features, width) for seed in seeds] if self.has_front else []
        self.readouts = [_matrix(seed, "readout", size, task.outputs) for seed in seeds] if self.has_readout else []
        self.biases = [nn.Parameter(torch.zeros(task.outputs)) for _ in self.readouts]

    def leaves(self, run: int) -> list[nn.Parameter]:
        """All that is trained of learner `run`."""
        around = [group[run] for group in (self.fronts, self.readouts, self.biases) if group]
        return [*self.copies.leaves(run), *around]

    def read(self, x: Tensor, runs: Sequence[int], *, steps: int | None = None) -> Tensor:
        """The readout at the last `steps` (those that answer), (R, B, steps, outputs), of x (R, B, T, features)."""
        if self.as_ids:
            symbols = x[..., : self.task.features]
            x = symbols.argmax(-1) if self.task.features > 1 else symbols[..., 0].long()
        elif self.has_front:
            x = x @ torch.stack([self.fronts[run] for run in runs])[:, None].to(x.dtype)
        last = self.copies.outputs(x, runs)[:, :, -(steps or self.task.answers) :]
        if not self.has_readout:
            return last
        matrix, bias = (
            torch.stack([group[run] for run in runs]).to(last.dtype) for group in (self.readouts, self.biases)
        )
        return unmasked(last) @ matrix[:, None] + bias[:, None, None]

    def loss(self, samples: Sequence[Samples], runs: Sequence[int], *, everywhere: bool = False) -> Tensor:
        """Mean loss of each run on its own samples, (R,).

        Args:
            samples: one batch for each run.
            runs: which copies.
            everywhere: whether half of the loss is the mean over all steps, each asked for the answer of the last
                (target replication, Lipton et al. 2016).
        """
        x, target = (torch.stack([getattr(one, name) for one in samples]) for name in ("x", "target"))
        if not everywhere:
            return self.task.loss(self.read(x, runs), target)
        read = self.read(x, runs, steps=x.shape[2])
        repeated = target.repeat_interleave(read.shape[2], 2)
        return (self.task.loss(read, repeated) + self.task.loss(read[:, :, -1:], target)) / 2

    def error(self, samples: Samples, runs: Sequence[int]) -> Tensor:
        """Error of each run on the same samples, (R,)."""
        with torch.no_grad():
            read = self.read(samples.x.expand(len(runs), *samples.x.shape), runs)
            return self.task.error(read, samples.target.expand(len(runs), *samples.target.shape))


def _matrix(seed: int, purpose: str, rows: int, columns: int) -> nn.Parameter:
    drawn = normal(seed, "probe", purpose, size=(rows, columns)) / math.sqrt(max(rows, 1))
    return nn.Parameter(drawn.float())

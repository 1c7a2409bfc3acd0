"""The user's own data as a task: answer better than the newest steps alone allow.

What data ask for at a lag is not known beforehand, so the goal is measured: the error that the same model comes to
where it is shown the newest `lag` steps alone. Samples end at random steps; each is asked for one answer, at its end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from gradscope.errors import UsageError
from gradscope.models.token_models import TokenIds
from gradscope.records import RunSpec
from gradscope.sequences.losses import asked_classes, asked_values
from gradscope.sequences.make_batch import make_batch
from gradscope.sequences.tasks import Draw, LagKind, Samples, Task, one_hot
from gradscope.text import safe_text

FEW = 10
"""Sequences below which the newest fifth of each is held out, and not a fifth of them."""
BETTER = 0.95
"""Part of the near-sighted error at and below which older steps count as used."""
LEAST = 0.01
"""By how much it must be below, in parts of a blind answer's error: where next to nothing is left, luck decides."""
WIDE = 2
"""Steps of a sample, in needed lags."""


@dataclass(frozen=True, eq=False)
class Part:
    """Steps that samples may end at: of the sequences `rows`, from `first` on, before `stop`."""

    rows: range
    first: int
    stop: int
    steps: int
    """Of a sample."""


def data_task(spec: RunSpec, input_size: int | None, ids: TokenIds | None, *, is_backwards: bool = False) -> Task:
    """What `--input` or `--text`, `--target` and `--loss` ask for, of a model that may read from the end; no goal yet.

    Raises:
        UsageError: the data cannot be had, ask for nothing that can be trained, or are too short for the lag.
    """
    batch = make_batch(replace(spec, probe=False), seed=spec.seed, input_size=input_size, ids=ids, whole=True)
    batch = batch.turned() if is_backwards else batch
    x = batch.x if batch.x.ndim == 3 else batch.x[..., None]
    name = safe_text(spec.input) if spec.input is not None else "the text"
    if spec.loss == "ce":
        targets, outputs, what, notes = asked_classes(spec, batch)
    elif spec.loss == "mse":
        targets, notes = asked_values(spec, batch)
        outputs, what = targets.shape[-1], "the values of --target" if spec.target else "the next input"
        targets = targets.float()
    else:
        raise UsageError(f"--loss {safe_text(spec.loss)} asks for no answers to train on; use --loss ce or mse")
    lag, once = spec.needs_lag or 1, targets.ndim == (2 if targets.is_floating_point() else 1)
    # One answer a sequence is asked at its last step.
    targets = targets[:, None].expand(-1, x.shape[1], *targets.shape[1:]) if once else targets
    trained, apart = _parts(targets, lag, once=once)
    learned, held = _answers(targets, trained), _answers(targets, apart)
    if (chance := _blind(learned, held, outputs)) <= 0:
        raise UsageError(f"{name} asks for the same answer everywhere, which leaves nothing to learn")
    return Task(
        name,
        f"predict {what} better than the newest {lag} steps allow",
        features=x.shape[-1],
        outputs=outputs,
        kinds=("spread",) if spec.lags == "spread" else ("fixed",),
        draw=_drawing(x.float(), targets, trained),
        draw_apart=_drawing(x.float(), targets, apart),
        goal=math.nan,
        chance=chance,
        notes=(*batch.notes, *notes),
        values=targets.is_floating_point(),
        in_nats=not targets.is_floating_point(),
        symbols=ids is not None,
    )


def goal_of(near: float, chance: float) -> float | None:
    """The error at which older steps count as used, where the newest alone come to `near`; None: they tell it all."""
    known = min(near, chance)
    goal = min(BETTER * known, known - LEAST * chance)
    return goal if goal > 0 else None


def one_hot_ids(task: Task, count: int) -> Task:
    """The same for a model of numbers: token ids as `count` features."""

    def shown(draw: Draw) -> Draw:
        def drawn(generator: torch.Generator, batch: int, lag: int, kind: LagKind) -> Samples:
            found = draw(generator, batch, lag, kind)
            return Samples(one_hot(found.x[..., 0].long(), count), found.target)

        return drawn

    assert task.draw_apart is not None
    return replace(task, features=count, symbols=False, draw=shown(task.draw), draw_apart=shown(task.draw_apart))


def near_sighted(task: Task, lag: int) -> Task:
    """The same with the newest `lag` steps of each sample alone."""

    def cut(draw: Draw) -> Draw:
        def drawn(generator: torch.Generator, count: int, lag: int, kind: LagKind) -> Samples:
            whole = draw(generator, count, lag, kind)
            return Samples(whole.x[:, -lag:], whole.target)

        return drawn

    assert task.draw_apart is not None
    return replace(task, draw=cut(task.draw), draw_apart=cut(task.draw_apart))


def _parts(targets: Tensor, lag: int, *, once: bool) -> tuple[Part, Part]:
    """What is trained on, and what errors are measured on; `once`: at the last step of each sequence alone."""
    count, last = targets.shape[:2]
    apart, few = max(1, count // 5), "give more sequences" if once else "give more sequences, or longer ones"
    if lag + 1 > last:
        raise UsageError(f"a lag of {lag} needs {lag + 1} steps with an answer, the data have {last}; lower --lag")
    first = last - 1 if once else min(WIDE * lag, last) - 1
    steps = first + 1
    if count >= FEW:
        return Part(range(count - apart), first, last, steps), Part(range(count - apart, count), first, last, steps)
    if once:
        raise UsageError(f"{count} sequences with one answer each are too few to train and to test on; {few}")
    cut = last - max(1, last // 5)
    first = min(first, cut - 1)
    if first < lag:
        raise UsageError(f"a lag of {lag} is too long to train and to test on in {last} steps; lower --lag, or {few}")
    return Part(range(count), first, cut, first + 1), Part(range(count), cut, last, first + 1)


def _answers(targets: Tensor, part: Part) -> Tensor:
    """All answers of a part, (answers,) or (answers, outputs)."""
    return targets[part.rows.start : part.rows.stop, part.first : part.stop].flatten(0, 1)


def _drawing(x: Tensor, targets: Tensor, part: Part) -> Draw:
    """Samples of as many steps as all ends of the part have before them, up to `WIDE` lags."""

    def draw(generator: torch.Generator, count: int, lag: int, kind: LagKind) -> Samples:
        row = torch.randint(part.rows.start, part.rows.stop, (count,), generator=generator)
        end = torch.randint(part.first, part.stop, (count,), generator=generator)
        back = end[:, None] - torch.arange(part.steps - 1, -1, -1)
        return Samples(x[row[:, None], back], targets[row, end][:, None])

    return draw


def _blind(learned: Tensor, held: Tensor, outputs: int) -> float:
    """Error of the best answer that reads no input: by frequency, or the mean."""
    if learned.is_floating_point():
        return float((held - learned.mean(0)).square().mean())
    counts = learned.bincount(minlength=outputs).double() + 1
    return float(functional.nll_loss((counts / counts.sum()).log().expand(len(held), -1), held))

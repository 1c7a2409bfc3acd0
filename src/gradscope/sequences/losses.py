"""`--loss`: what turns the output of a model into the number that is differentiated.

A loss is the sum over sequences, never their mean, so dL/dx of a sequence does not depend on how many others there
are. Seeded directions and readouts depend on the seed and on sizes alone: models of one output size share them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.nn import functional

from gradscope.errors import UsageError
from gradscope.isolation.user_code import load_function, user_code
from gradscope.records import RunSpec
from gradscope.registry import unknown
from gradscope.sequences.batch import Batch
from gradscope.sequences.synthetic import normal
from gradscope.sequences.targets import class_targets, value_targets
from gradscope.sequences.tasks import task_of
from gradscope.text import safe_text


@dataclass(frozen=True, eq=False)
class Loss:
    """`loss(output)`: a scalar, summed over sequences."""

    name: str
    """As it stands behind `--loss`."""
    notes: tuple[str, ...]
    """What was assumed, one sentence each."""
    final_only: bool
    """True where the loss reads the last step alone."""
    function: Callable[[Any], Tensor]
    reads_raw: bool = False
    """True for a user's own function, which takes whatever a module returns; False: the first tensor of it."""

    def __call__(self, output: Any) -> Tensor:
        """The loss of `output`, (B, T, F), in the dtype and on the device of `output`.

        Only a user's own function may take anything else.

        Raises:
            UsageError: an output that the loss cannot read, or a user's function that fails.
        """
        return self.function(output)


def direction(seed: int, size: int) -> Tensor:
    """The unit vector u of `final` and `every`, (size,), float64: uniform on the sphere."""
    drawn = normal(seed, "direction", size=(size,))
    return drawn.div(drawn.norm())


def readout(seed: int, size: int, outputs: int) -> Tensor:
    """A linear map from features to classes or values, (size, outputs), float64, entries N(0, 1/size)."""
    return normal(seed, "readout", size=(size, outputs)).div(math.sqrt(size))


def final(spec: RunSpec, batch: Batch, seed: int) -> Loss:
    """L = sum_b <u, y_b,T> with a seeded unit vector u. An output (B, F) or (B,) counts as the last step.

    Entries of -inf, what masks are made of, are left out. A module that returns a scalar is its own loss.
    """

    def function(output: Any) -> Tensor:
        if _is_scalar(output):
            return output
        last = unmasked(_last(output, "final"))
        return (last @ direction(seed, last.shape[-1]).to(last)).sum()

    return Loss("final", _target_unused(spec), final_only=True, function=function)


def every(spec: RunSpec, batch: Batch, seed: int) -> Loss:
    """L = sum_b sum_t <u, y_b,t>: the unit vector of `final` against every step, or against the only answer."""

    def function(output: Any) -> Tensor:
        if _is_scalar(output):
            return output
        steps = _checked(output, "every", (1, 2, 3))
        steps = unmasked(steps[:, None] if steps.ndim == 1 else steps)
        return (steps @ direction(seed, steps.shape[-1]).to(steps)).sum()

    return Loss("every", _target_unused(spec), final_only=False, function=function)


def asked_classes(spec: RunSpec, batch: Batch) -> tuple[Tensor, int, str, tuple[str, ...]]:
    """Classes by step, (B, steps), or by sequence, (B,); how many there are; `27 classes`; and notes.

    Raises:
        UsageError: neither text nor target, a target that does not fit, or a text of one distinct token.
    """
    if spec.target is not None:
        targets, classes, notes = class_targets(spec.target, *batch.x.shape[:2], consecutive=batch.consecutive)
        return batch.in_order(targets, by_step=targets.ndim == 2), classes, f"{classes} classes", notes
    if batch.logits is not None:
        return batch.x[:, 1:], batch.logits, f"the next of {batch.logits:,} token ids", ()
    if batch.token_ids is None or batch.vocabulary is None:
        raise UsageError("--loss ce needs text or classes; add --text or --target FILE, or use --loss final")
    classes = len(batch.vocabulary)
    if classes < 2:
        raise UsageError("--loss ce: the text repeats one token, nothing is left to predict; use a longer text")
    return batch.token_ids[:, 1:], classes, f"the next of {classes} tokens", ()


def asked_values(spec: RunSpec, batch: Batch) -> tuple[Tensor, tuple[str, ...]]:
    """Values by step, (B, steps, features), or by sequence, (B, 1), and notes; without a target file, the next input.

    Raises:
        UsageError: a target that does not fit, or a model without input and no target.
    """
    if spec.target is not None:
        values, notes = value_targets(spec.target, *batch.x.shape[:2], consecutive=batch.consecutive)
        return batch.in_order(values, by_step=values.ndim == 3), notes
    if batch.x.ndim == 2:
        raise UsageError("--loss mse has no numbers to predict from token ids; add --target FILE, or use --loss ce")
    if batch.x.shape[-1] == 0:
        raise UsageError("--loss mse predicts the next input, this model takes none; add --target FILE")
    return batch.x[:, 1:], ("squared error of the next input: output t against input t+1",)


def cross_entropy(spec: RunSpec, batch: Batch, seed: int) -> Loss:
    """L = -sum ln p(class), p the softmax of the logits.

    On text steps 1..T-1 predict tokens 2..T. With a target file: its class at every step, or, one class per sequence,
    at the last step. The logits are the outputs of a user's module, where there are at least as many as classes; one
    output z is the logits (0, z) of two classes. Else a seeded readout of the outputs.

    Raises:
        UsageError: neither text nor target, a target that does not fit, or a text of one distinct token.
    """
    targets, classes, what, notes = asked_classes(spec, batch)
    final_only, own = targets.ndim == 1, spec.target is None and batch.logits is not None
    head = batch.has_head and spec.target is not None

    def function(output: Any) -> Tensor:
        read = _last(output, "ce") if final_only else _checked(output, "ce", (3,), batch)[:, : targets.shape[1]]
        _check_sequences(read, len(targets), "ce")
        if own or (head and read.shape[-1] >= classes):
            logits = read
        elif head and read.shape[-1] == 1 and classes == 2:
            logits = torch.cat((torch.zeros_like(read), read), -1)
        else:
            logits = unmasked(read) @ readout(seed, read.shape[-1], classes).to(read)
        flat = targets.reshape(-1).to(read.device)
        return functional.cross_entropy(logits.flatten(0, -2), flat, reduction="sum")

    through = "the model's own head" if own else "a seeded readout"
    through = "the model's own outputs, or a seeded readout where there are fewer" if head else through
    return Loss("ce", (f"cross-entropy of {what} through {through}", *notes), final_only, function)


def mean_square(spec: RunSpec, batch: Batch, seed: int) -> Loss:
    """L = sum over sequences and steps of the mean over features of (y - target)^2.

    Without a target file the output of steps 1..T-1 predicts the input of steps 2..T. Where output and target differ
    in their number of features, a seeded readout stands between them. One value a sequence is asked at its last step.

    Raises:
        UsageError: a target that does not fit, or a model without input and no target.
    """
    targets, notes = asked_values(spec, batch)
    values, final_only = targets.shape[-1], targets.ndim == 2
    seeded = f"through a seeded readout where the output does not have {values} features"

    def function(output: Any) -> Tensor:
        if final_only:
            read = _last(output, "mse")
            _check_sequences(read, len(targets), "mse")
        else:
            read = _checked(output, "mse", (3,), batch)[:, : targets.shape[1]]
        if read.shape[-1] != values:
            read = unmasked(read) @ readout(seed, read.shape[-1], values).to(read)
        return (read - targets.to(read)).square().mean(dim=-1).sum()

    return Loss("mse", (*notes, seeded), final_only, function)


def task_loss(spec: RunSpec, batch: Batch, seed: int) -> Loss:
    """What the task of the run asks of the last outputs, through a seeded readout, summed over sequences."""
    task, asked = task_of(spec), batch.asked
    assert asked is not None

    def function(output: Any) -> Tensor:
        steps = _checked(output, task.name, (1, 2, 3))
        steps = steps[:, None] if steps.ndim == 1 else steps
        last = (steps[:, None] if steps.ndim == 2 else steps)[:, -task.answers :]
        if len(last) != len(asked):
            found = f"{tuple(steps.shape)} for {len(asked)} sequences"
            raise UsageError(
                f"{task.name} asks each sequence, the model returned {found}; return (batch, steps, features)"
            )
        own = last.shape[-1] == task.outputs
        read = last if own else unmasked(last) @ readout(seed, last.shape[-1], task.outputs).to(last)
        target = asked.to(read.device)
        return task.loss(read[:, None], target[:, None].to(read.dtype) if task.values else target[:, None]).sum()

    return Loss(task.name, ("the task is read through a seeded readout",), task.answers == 1, function)


LOSSES: Mapping[str, Callable[[RunSpec, Batch, int], Loss]] = {
    "final": final,
    "every": every,
    "ce": cross_entropy,
    "mse": mean_square,
}


def make_loss(spec: RunSpec, batch: Batch, *, seed: int) -> Loss:
    """The loss that `spec.loss` names: one of the table, or `path/to/file.py:function`.

    Raises:
        UsageError: unknown name, missing or unfit target, or user code that cannot be loaded.
    """
    if spec.task is not None:
        return task_loss(spec, batch, seed)
    if spec.loss in LOSSES:
        return LOSSES[spec.loss](spec, batch, seed)
    if ".py" in spec.loss:
        return _user_loss(spec)
    raise UsageError(unknown("loss", spec.loss, (*LOSSES, "path/to/file.py:function")))


def _user_loss(spec: RunSpec) -> Loss:
    """`fn(output) -> scalar` of a file."""
    word = safe_text(spec.loss)
    own = own_loss(load_function(spec.loss, "--loss"), f"--loss '{word}'")
    return replace(own, name=word, notes=_target_unused(spec))


def own_loss(called: Callable[[Any], Any], shown: str) -> Loss:
    """A function of the user's own, taken as it is: a mean over the batch inside it stays one.

    Args:
        called: `fn(output) -> scalar`; of a user's module it is given whatever that returns, of a family or a layer of
            torch.nn a tensor (batch, T, features).
        shown: what errors call it.
    """

    def function(output: Any) -> Tensor:
        with user_code(shown):
            value = called(output)
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.is_floating_point():
            found = (
                f"a tensor {tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
            )
            raise UsageError(f"{shown} returned {found}, one real number as a tensor is needed; end with .sum()")
        if torch.is_grad_enabled() and isinstance(output, Tensor) and output.requires_grad and not value.requires_grad:
            remedy = "leave out .detach(), .item() and .numpy()"
            raise UsageError(f"{shown} returned a number cut off from the output; {remedy}")
        return value.reshape(())

    return Loss(shown, (), final_only=False, function=function, reads_raw=True)


def _target_unused(spec: RunSpec) -> tuple[str, ...]:
    return () if spec.target is None else (f"--target is not used by --loss {safe_text(spec.loss)}",)


def _last(output: Tensor, name: str) -> Tensor:
    steps = _checked(output, name, (1, 2, 3))
    return steps[:, -1] if steps.ndim == 3 else steps if steps.ndim == 2 else steps[:, None]


def unmasked(output: Tensor) -> Tensor:
    """Without what a mask has set to -inf: no loss that the module is made for hears of it."""
    return torch.where(output == -math.inf, 0.0, output)


def _is_scalar(output: object) -> TypeGuard[Tensor]:
    return isinstance(output, Tensor) and not output.ndim and output.is_floating_point()


def _checked(output: object, name: str, dims: tuple[int, ...], batch: Batch | None = None) -> Tensor:
    own = "write your own: --loss path/to/file.py:function"
    if not isinstance(output, Tensor):
        raise UsageError(
            f"--loss {name} needs a tensor, the model returned a {safe_text(type(output).__name__)}; {own}"
        )
    if dims == (3,) and output.ndim == 2 and output.is_floating_point():
        remedy = f"give one target a sequence, --target FILE of shape ({len(output)},)"
        raise UsageError(f"--loss {name} asks at every step, the model gives one answer a sequence; {remedy}")
    if output.ndim not in dims or not output.is_floating_point():
        forms = {1: "(batch)", 2: "(batch, features)", 3: "(batch, steps, features)"}
        shapes = " or ".join(forms[count] for count in dims)
        found = f"{tuple(output.shape)} of {output.dtype}"
        raise UsageError(f"--loss {name} needs real output of shape {shapes}, the model returned {found}; {own}")
    if batch is not None and tuple(output.shape[:2]) != tuple(batch.x.shape[:2]):
        needed = f"{batch.x.shape[0]} sequences of {batch.x.shape[1]} steps"
        raise UsageError(f"--loss {name} needs output for {needed}, the model returned {tuple(output.shape)}; {own}")
    return output


def _check_sequences(read: Tensor, needed: int, name: str) -> None:
    if len(read) != needed:
        raise UsageError(
            f"--loss {name} has targets for {needed} sequences, the output has {len(read)}; make them equal"
        )

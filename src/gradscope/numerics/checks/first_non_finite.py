"""Where inside a module the first NaN or Inf of a forward pass is born."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.errors import UsageError
from gradscope.forward.birth import first_birth as birth_of
from gradscope.models.capture.recurrence import Recurrence
from gradscope.models.capture.watch import hooked
from gradscope.models.direct import Direct
from gradscope.models.output_shape import reals
from gradscope.numerics.checks import finite
from gradscope.numerics.gradients.parameters import loss_value, parameter_gradients
from gradscope.records import NonFinite


def first_birth(model: Direct, x: Tensor, recurrences: Sequence[Recurrence]) -> NonFinite | None:
    """The submodule (by its dotted name), the step and the value; for a recurrence its layer and gate.

    Runs the model once more. The submodule that was called first counts: one after it may spread what is not finite
    over all steps. Inside a recurrence it is the earliest step of any layer.
    """
    inside = {id(one.module): one for one in recurrences}
    found: list[NonFinite | None] = []

    def note(name: str, part: nn.Module, output: Any) -> None:
        if (one := inside.pop(id(part), None)) is not None:
            units = [unit for level in one.levels for unit in level]
            found.append(finite.earliest(finite.in_layer(unit.layer, f"{one.name}.{unit.name}") for unit in units))
        found.append(_in_output(output, name, x.shape[0], x.shape[1]))

    with ExitStack() as hooks, torch.no_grad():
        for name, part in model.module.named_modules():
            if name and not isinstance(part, torch.jit.ScriptModule):
                hooks.enter_context(
                    hooked(part, lambda part, args, kwargs, output, name=name: note(name, part, output))
                )
        model.run(model.laid_out(x))
    return next((bad for bad in found if bad is not None), None)


def born(model: Direct, x: Tensor) -> NonFinite | None:
    """The first operation, of any sequence of x (batch, T, ...), that makes what is not finite."""
    found = []
    for b in range(len(x)):
        if (birth := birth_of(model, model.laid_out(x[b : b + 1]), 0 if model.time_first else 1)) is not None:
            part = birth.part or type(model.module).__name__
            found.append(NonFinite(birth.step, part, birth.operation, birth.value, birth.cause))
    return finite.earliest(found)


def is_harmless(bad: NonFinite, model: Direct, x: Tensor, loss: Any, output: Tensor) -> bool:
    """Whether neither the loss nor a gradient hears of what is not finite: -inf where a mask is, say, before a softmax.

    A loss of the user's own says what reads the outputs. Of any other, NaN and +inf there are never harmless: what
    training makes of them is not known.
    """
    if not getattr(loss, "reads_raw", True) and (bad.value != "-inf" or not bool((output < math.inf).all())):
        return False
    try:
        with torch.no_grad():
            value = loss_value(model, x, loss)
        by_name, given = parameter_gradients(model, x, loss)
    except UsageError:
        return False
    return all(bool(g.isfinite().all()) for g in (value, given, *by_name.values()) if g is not None)


def _in_output(output: Any, name: str, batch: int, steps: int) -> NonFinite | None:
    """In what a submodule returned, where that has steps."""
    for value in reals(output):
        if value.ndim < 2:
            continue
        if value.shape[:2] == (batch, steps):
            value = value.transpose(0, 1)
        elif value.shape[:2] != (steps, batch):
            continue
        if (bad := finite.first_bad({"output": value}, name)) is not None:
            return bad
    return None

"""Where NaN or Inf is born in a forward pass, and where inside a module."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.errors import UsageError
from gradscope.forward.birth import first_birth as birth_of
from gradscope.models.capture.recurrence import Recurrence
from gradscope.models.capture.watch import hooked
from gradscope.models.cell import Layer
from gradscope.models.direct import Direct
from gradscope.models.output_shape import reals
from gradscope.models.recurrent import Trajectory
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
            found.append(earliest(in_layer(unit.layer, f"{one.name}.{unit.name}") for unit in units))
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
    return earliest(found)


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
        if (bad := first_bad({"output": value}, name)) is not None:
            return bad
    return None


def in_weights(weights: Mapping[str, Tensor]) -> NonFinite | None:
    """The first parameter that is not finite; step 0, before anything ran."""
    for name, value in weights.items():
        if not bool(value.isfinite().all()):
            return NonFinite(0, name, "weights", _kind(value))
    return None


def in_trajectories(trajectories: Sequence[Trajectory]) -> NonFinite | None:
    """The first step, layer and gate over several forward passes."""
    return earliest(
        in_layer(layer, name)
        for trajectory in trajectories
        for name, layer in zip(trajectory.names, trajectory.layers, strict=True)
    )


def in_layer(layer: Layer, name: str) -> NonFinite | None:
    """The first step and gate of one layer."""
    return first_bad({**layer.values, "state": layer.states[1:]}, name)


def earliest(found: Iterable[NonFinite | None]) -> NonFinite | None:
    """The one with the smallest step; the first of equals."""
    return min((bad for bad in found if bad is not None), key=lambda bad: bad.step, default=None)


def first_bad(values: Mapping[str, Tensor], layer: str) -> NonFinite | None:
    """The first step at which one of the values (T, batch, ...) is not finite; earlier names win within a step."""
    first: NonFinite | None = None
    for name, value in values.items():
        bad = (~value.isfinite()).flatten(1).any(1).nonzero()
        if len(bad) and (first is None or int(bad[0]) + 1 < first.step):
            first = NonFinite(int(bad[0]) + 1, layer, name, _kind(value[int(bad[0])]))
    return first


def _kind(value: Tensor) -> str:
    if bool(value.isnan().any()):
        return "nan"
    return "inf" if bool((value == float("inf")).any()) else "-inf"

"""Where the first NaN or Inf of a forward pass is made: weights, layer, submodule or operation, and step."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.errors import UsageError
from gradscope.forward.autograd_graph import Value
from gradscope.forward.call_sites import Counting, innermost, look_at
from gradscope.forward.scaled_pull import pull_scaled
from gradscope.forward.traced_pass import TracedPass, trace_pass
from gradscope.models.cell import Layer
from gradscope.models.fused_recurrence import Recurrence, hooked
from gradscope.models.output_shape import reals
from gradscope.models.stack import StackRun
from gradscope.models.whole_module import WholeModule
from gradscope.numerics.parameter_gradients import loss_value, parameter_gradients
from gradscope.records import NonFinite
from gradscope.torch_private import is_transformed, tree_leaves


@dataclass(frozen=True)
class NonFiniteOperation:
    """The first value that is not finite."""

    step: int
    operation: str
    part: str
    """Dotted name of the submodule in whose code it happens; empty for the module itself."""
    cause: str
    """`constant`: a number in the code that is not finite; `arithmetic`: of finite numbers."""
    value: str
    """`nan`, `inf` or `-inf`."""


class NonFiniteFinder(Counting):
    """Looks at every result until one is not finite."""

    def __init__(self, model: WholeModule) -> None:
        super().__init__()
        self.paths = {id(part): name for name, part in model.module.named_modules()}
        self.first: tuple[int, int, str, str, str, Tensor] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One call."""
        found = super().__torch_function__(func, types, args, kwargs)
        if self.first is None and not is_transformed():
            results = found if isinstance(found, tuple | list) else (found,)
            for place, value in enumerate(results):
                if _is_bad(value):
                    self.first = (self.count, place, *self._told(func, args, kwargs), value.detach().clone())
                    break
        return found

    def _told(self, func: Any, args: Any, kwargs: Any) -> tuple[str, str, str]:
        name = str(getattr(func, "__name__", func)).strip("_")
        given = tree_leaves((args, kwargs))
        constant = any(isinstance(one, float) and not math.isfinite(one) for one in given)
        constant = constant or any(_is_bad(one) for one in given)
        return name, innermost(sys._getframe(2), self.paths), "constant" if constant else "arithmetic"


def _in_sequence(model: WholeModule, x: Tensor, axis: int) -> NonFiniteOperation | None:
    """Of one sequence, x as the module takes it; None where a call from Python returns nothing that is not finite."""
    mode = NonFiniteFinder(model)
    look_at(model, x, mode)
    if mode.first is None:
        return None
    count, place, name, part, cause, value = mode.first
    return NonFiniteOperation(_step(model, x, axis, (count, place), value), name, part, cause, _kind(value))


def _step(model: WholeModule, x: Tensor, axis: int, call: tuple[int, int], value: Tensor) -> int:
    """The newest input that the value has read; of one that holds all steps, the first that is not finite."""
    steps = x.shape[axis]
    for along in [d for d in (axis, *range(value.ndim)) if 1 < value.ndim > d and value.shape[d] == steps]:
        bad = (~value.isfinite()).sum([d for d in range(value.ndim) if d != along]).nonzero().flatten()
        return int(bad[0]) + 1
    one = trace_pass(model, x, axis=axis)
    made = [edge for edge, own in one.recording.calls.items() if own == call]
    values = [(one.graph.place[node], nr) for node, nr in made if node in one.graph.place]
    marks = [one.labels.of(place) for place in values]
    label = next((mark.label for mark in marks if mark is not None and mark.label), None)
    return label or next((step for place in values if (step := _first_read(one, place, value))), steps)


def _first_read(one: TracedPass, place: Value, value: Tensor) -> int | None:
    """The first input that the first entry which is not finite has read."""
    if one.leaf is None or one.graph.shape(place) != value.shape:
        return None
    seed = torch.zeros_like(value)
    seed.view(-1)[int((~value.isfinite()).flatten().nonzero()[0])] = 1
    above = sorted(one.graph.above(place[0]), reverse=True)
    terms = pull_scaled(one.graph, above, {place: [(seed, 0)]}).take((one.leaf, 0))
    heard = [(m != 0).sum([d for d in range(m.ndim) if d != one.axis]).nonzero().flatten() for m, _ in terms]
    return min((int(steps[0]) + 1 for steps in heard if len(steps)), default=None)


def _is_bad(value: Any) -> bool:
    """Whether it holds NaN or +Inf; -Inf alone is what masks are made of."""
    return isinstance(value, Tensor) and value.is_floating_point() and not bool((value < torch.inf).all())


def in_submodules(model: WholeModule, x: Tensor, recurrences: Sequence[Recurrence]) -> NonFinite | None:
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


def in_operations(model: WholeModule, x: Tensor) -> NonFinite | None:
    """The first operation, of any sequence of x (batch, T, ...), that makes what is not finite."""
    found = []
    for b in range(len(x)):
        if (birth := _in_sequence(model, model.laid_out(x[b : b + 1]), 0 if model.time_first else 1)) is not None:
            part = birth.part or type(model.module).__name__
            found.append(NonFinite(birth.step, part, birth.operation, birth.value, birth.cause))
    return earliest(found)


def is_harmless(bad: NonFinite, model: WholeModule, x: Tensor, loss: Any, output: Tensor) -> bool:
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
        if (bad := in_values({"output": value}, name)) is not None:
            return bad
    return None


def in_weights(weights: Mapping[str, Tensor]) -> NonFinite | None:
    """The first parameter that is not finite; step 0, before anything ran."""
    for name, value in weights.items():
        if not bool(value.isfinite().all()):
            return NonFinite(0, name, "weights", _kind(value))
    return None


def in_trajectories(trajectories: Sequence[StackRun]) -> NonFinite | None:
    """The first step, layer and gate over several forward passes."""
    return earliest(
        in_layer(layer, name)
        for trajectory in trajectories
        for name, layer in zip(trajectory.names, trajectory.layers, strict=True)
    )


def in_layer(layer: Layer, name: str) -> NonFinite | None:
    """The first step and gate of one layer."""
    return in_values({**layer.values, "state": layer.states[1:]}, name)


def earliest(found: Iterable[NonFinite | None]) -> NonFinite | None:
    """The one with the smallest step; the first of equals."""
    return min((bad for bad in found if bad is not None), key=lambda bad: bad.step, default=None)


def in_values(values: Mapping[str, Tensor], layer: str) -> NonFinite | None:
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

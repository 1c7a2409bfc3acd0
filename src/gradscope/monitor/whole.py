"""Whole analyses in a training loop: of each watched layer on what it just took in, or of a copy of the model."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from gradscope.errors import GradscopeError, UsageError
from gradscope.monitor.ear import Ear
from gradscope.monitor.glance import of_layer, of_model
from gradscope.monitor.points import point_of
from gradscope.monitor.weights import changes, plain
from gradscope.records import ModelResult
from gradscope.text import safe_text
from gradscope.trajectory import Point

Weights = dict[str, dict[str, Tensor]]
Found = tuple[list[Point], list[str], Weights]


def analyses(
    model: nn.Module,
    ears: Sequence[Ear],
    x: Tensor | None,
    scale: float,
    needs_lag: int | None,
    before: Weights,
) -> Found:
    """Points without a step, notes, and the weights as they are now.

    Args:
        model: all of it, for one without a layer to listen to.
        ears: the watched layers with what they heard.
        x: the batch, where it is known.
        scale: the loss scale.
        needs_lag: as the user stated it.
        before: the weights at the analysis before, by layer.
    """
    points: list[Point] = []
    notes: list[str] = []
    weights: Weights = {}
    for ear in ears:
        heard = ear.heard(scale)
        if heard is None:
            continue
        weights[ear.name] = plain(dict(ear.layer.named_parameters()))
        begun = time.perf_counter()
        try:
            result = of_layer(ear.layer, heard, ear.name, needs_lag)
        except GradscopeError as error:
            notes.append(f"no analysis of {ear.name}: {error}")
            continue
        points.append(_point(result, ear.name, weights, before, begun))
    deaf = all(ear.heard(scale) is None for ear in ears)
    if deaf and x is not None:
        name = type(model).__name__
        weights[name] = plain(dict(model.named_parameters()))
        begun = time.perf_counter()
        try:
            result = of_model(_copied(model), x, name, needs_lag)
        except GradscopeError as error:
            return points, [f"no analysis of {name}: {error}"], weights
        points.append(_point(result, name, weights, before, begun))
    if not ears and x is None:
        notes.append("the model has no nn.RNN, GRU or LSTM: hand the batch over, flow.step(loss, x), for analyses")
    return points, notes, {**before, **weights}


def _point(
    result: ModelResult,
    name: str,
    now: dict[str, dict[str, Tensor]],
    before: dict[str, dict[str, Tensor]],
    begun: float,
) -> Point:
    moved = changes(before[name], now[name]) if name in before else ()
    seconds = round(time.perf_counter() - begun, 4)
    return replace(point_of(result, 0, changes=moved, seconds=seconds), layer=name)


def _copied(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode and without hooks, whose gradients are its own.

    Raises:
        UsageError: it cannot be copied.
    """
    try:
        made = copy.deepcopy(model)
    except RuntimeError as error:
        what = f"{type(model).__name__} cannot be copied ({safe_text(error, 80)})"
        raise UsageError(f"{what}; detach the tensors that it keeps from earlier calls") from error
    for part in made.modules():
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
        part._backward_hooks.clear()
    return made.double().eval()

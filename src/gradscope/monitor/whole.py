"""Whole analyses in a training loop: of each watched layer on what it just took in, or of a copy of the model."""

from __future__ import annotations

import inspect
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from gradscope.errors import GradscopeError, UsageError
from gradscope.models.copied import copied
from gradscope.monitor.glance import of_layer, of_model
from gradscope.monitor.points import point_of
from gradscope.monitor.signal import Signal, cut
from gradscope.monitor.weights import changes, plain
from gradscope.records import ModelResult
from gradscope.text import safe_text
from gradscope.trajectory import Point

Weights = dict[str, dict[str, Tensor]]
Found = tuple[list[Point], list[str], Weights]


def analyses(signals: Sequence[tuple[nn.RNNBase, Signal]], before: Weights) -> Found:
    """Points without a step, notes, and the weights as they are now.

    Args:
        signals: the layers, each with what was just measured of it.
        before: the weights at the analysis before, by layer.
    """
    points: list[Point] = []
    notes: list[str] = []
    weights: Weights = {}
    for layer, signal in signals:
        weights[signal.name] = plain(dict(layer.named_parameters()))
        begun = time.perf_counter()
        try:
            point = _point(of_layer(layer, signal), signal.name, weights, before, begun)
        except GradscopeError as error:
            notes.append(f"no analysis of {signal.name}: {error}")
            continue
        points.append(cut(point) if signal.is_cut else point)
    return points, notes, {**before, **weights}


def of_whole(model: nn.Module, x: Tensor, needs_lag: int | None, before: Weights) -> Found:
    """The same of a copy of the model on a batch, where no layer can be listened to."""
    name, begun = type(model).__name__, time.perf_counter()
    weights = {name: plain(dict(model.named_parameters()))}
    try:
        _require_one_argument(model)
        result = of_model(_copied(model), x, name, needs_lag)
    except GradscopeError as error:
        return [], [f"no analysis of {name}: {error}"], {**before, **weights}
    return [_point(result, name, weights, before, begun)], [], {**before, **weights}


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
    made = copied(model)
    for part in made.modules():
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
        part._backward_hooks.clear()
    made._apply(_widened)
    return made.eval()


def _require_one_argument(model: nn.Module) -> None:
    """Refuse a model that does not run on a batch alone.

    Raises:
        UsageError: its forward asks for more.
    """
    asked = [
        name
        for name, one in inspect.signature(model.forward).parameters.items()
        if one.default is one.empty and one.kind in (one.POSITIONAL_OR_KEYWORD, one.POSITIONAL_ONLY, one.KEYWORD_ONLY)
    ]
    if len(asked) > 1:
        rest = safe_text(", ".join(asked[1:]), 80)
        raise UsageError(f"its forward asks for {rest} too, and is handed the batch alone; give them defaults")


def _widened(tensor: Tensor) -> Tensor:
    """A tensor in double precision; whole numbers stay."""
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.double() if tensor.is_floating_point() else tensor

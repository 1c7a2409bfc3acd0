"""The Python API: the same analysis on objects at hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gradscope.config.check import check
from gradscope.errors import UsageError
from gradscope.examine import examine_sources
from gradscope.loading.code.objects import source_from_object
from gradscope.loading.source import Source
from gradscope.loading.word import source_of
from gradscope.models.copied import copied
from gradscope.records import Report, RunSpec
from gradscope.registry import unknown
from gradscope.sequences.losses import own_loss
from gradscope.text import safe_text

Loss = Callable[[Tensor], Tensor]
LISTS = ("columns", "pair", "show", "select", "ignore", "import_path")


def analyze(model: Any, x: Tensor | None = None, loss: str | Loss = "final", **settings: Any) -> Report:
    """Analyse one model.

    Args:
        model: a word such as `"lstm:forget_bias=5"`, a torch.nn RNN, GRU or LSTM, a cell `step(x, state) -> state`
            with `initial_state`, a causal nn.Module, or a tensor of Jacobians (T, N, N).
        x: inputs (batch, T, features), or token ids (batch, T) for a module that takes ids; a seeded random sequence
            when absent.
        loss: `final`, `every`, `ce`, `mse`, `file.py:function`, or a function `fn(output) -> scalar`: of a module of
            yours it is given whatever that returns, of a family or a layer of torch.nn a tensor (batch, T, features).
        settings: fields of `RunSpec` by name: `needs_lag=100`, `length=500`, `seeds=3`.

    Raises:
        UsageError: something asked for cannot be had.
    """
    return _report([model], x, loss, settings, compare=False)


def compare(*models: Any, x: Tensor | None = None, loss: str | Loss = "final", **settings: Any) -> Report:
    """Analyse several models on the same sequence and seed; arguments as for `analyze`."""
    if not models:
        raise UsageError("nothing to compare; give at least one model")
    return _report(list(models), x, loss, settings, compare=True)


def _report(
    models: list[Any], x: Tensor | None, loss: str | Loss, settings: dict[str, Any], *, compare: bool
) -> Report:
    names = [field.name for field in dataclasses.fields(RunSpec)]
    for name in settings:
        if name not in names:
            raise UsageError(unknown("setting", name, names))
    if isinstance(loss, str):
        settings["loss"] = loss
    words = tuple(model if isinstance(model, str) else type(model).__name__ for model in models)
    if x is not None and not isinstance(x, torch.Tensor):
        raise UsageError(f"x is a {type(x).__name__}; expected a tensor (batch, T, features)")
    if x is not None:
        settings.setdefault("dtype", str(x.dtype)[6:] if x.dtype.is_floating_point else "float64")
    settings = {
        name: (value,) if name in LISTS and isinstance(value, str) else value for name, value in settings.items()
    }
    spec = RunSpec(models=words, **settings)
    # How long the sequence is, and so which lags there are, is known where the objects at hand are.
    lag = spec.needs_lag if spec.needs_lag is not None and spec.needs_lag < 1 else None
    check(replace(spec, models=(), needs_lag=lag), dict.fromkeys(names, "given"))
    sources = [_source(model, word, spec, x) for model, word in zip(models, words, strict=True)]
    own = None if isinstance(loss, str) else own_loss(loss, f"loss {getattr(loss, '__name__', type(loss).__name__)}")
    return examine_sources(sources, spec, x=x, loss=own, costs=compare)


def _copied(module: torch.nn.Module) -> torch.nn.Module:
    """A copy to work on: nothing of the caller's is moved, cast or put into another mode."""
    try:
        return copied(module)
    except RuntimeError as error:
        what = f"{type(module).__name__} cannot be copied ({safe_text(error, 80)})"
        raise UsageError(f"{what}; detach the tensors it keeps from earlier calls") from error


def _source(model: Any, word: str, spec: RunSpec, x: Tensor | None) -> Source:
    if x is not None and x.ndim == 3:
        spec = dataclasses.replace(spec, input_size=x.shape[-1])
    if isinstance(model, str):
        return source_of(model, spec)
    if isinstance(model, torch.nn.Module):
        model = _copied(model)
        if x is not None and spec.layout is None and not hasattr(model, "batch_first"):
            # With the caller's own data, what is analysed is what their training does: nothing is turned.
            spec = dataclasses.replace(spec, layout="batch-first")
    return source_from_object(model, word, spec)

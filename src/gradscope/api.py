"""The Python API: the same analysis on objects at hand."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from gradscope.config.check import check, idle
from gradscope.config.types import coerce
from gradscope.errors import UsageError
from gradscope.examine import full_report_of_sources
from gradscope.isolation.caller_state import isolated
from gradscope.loading.from_word import source_of
from gradscope.loading.objects import source_from_object
from gradscope.loading.source import Source
from gradscope.models.user_modules import copied
from gradscope.records import Report, RunSpec
from gradscope.registry import unknown
from gradscope.sequences.losses import own_loss
from gradscope.text import safe_text

Loss = Callable[[Tensor], Tensor]
NAMES = tuple(field.name for field in fields(RunSpec))


def analyze(model: Any, x: Tensor | None = None, loss: str | Loss = "final", **settings: Any) -> Report:
    """Analyse one model.

    Args:
        model: a word such as `"lstm:forget_bias=5"`, a torch.nn RNN, GRU or LSTM, a cell `step(x, state) -> state`
            with `initial_state`, a causal nn.Module, or a tensor of Jacobians (T, N, N).
        x: inputs (batch, T, features), or token ids (batch, T) for a module that takes ids; a seeded random sequence
            when absent.
        loss: `final`, `every`, `ce`, `mse`, `file.py:function`, or a function `fn(output) -> scalar`: of a module of
            yours it is given whatever that returns, of a family or a layer of torch.nn a tensor (batch, T, features).
        settings: fields of `RunSpec` by name: `needs_lag=100`, `length=500`, `seeds=3`; values of the types that the
            command line and configuration files take, paths, `torch.dtype` and `torch.device`.

    Raises:
        UsageError: something asked for cannot be had.
    """
    return _report([model], x, loss, settings, compare=False)


def compare(*models: Any, x: Tensor | None = None, loss: str | Loss = "final", **settings: Any) -> Report:
    """Analyse several models, or one list of them, on the same sequence and seed; arguments as for `analyze`."""
    if len(models) == 1 and isinstance(models[0], list | tuple):
        models = tuple(models[0])
    if not models:
        raise UsageError("nothing to compare; give at least one model")
    return _report(list(models), x, loss, settings, compare=True)


@isolated()
def _report(models: list[Any], x: Any, loss: Any, settings: dict[str, Any], *, compare: bool) -> Report:
    models = [os.fspath(model) if isinstance(model, os.PathLike) else model for model in models]
    words = tuple(model if isinstance(model, str) else type(model).__name__ for model in models)
    x = _given(x)
    if not isinstance(loss, str) and not callable(loss):
        raise UsageError(f"loss is a {type(loss).__name__}; expected a word such as 'final' or a function of it")
    chosen = {"loss": loss} if isinstance(loss, str) else {}
    if not isinstance(loss, str):
        for name in ("task", "target"):
            if settings.get(name) is not None:
                raise UsageError(f"both {name} and a function as loss are given; the function alone is called")
    if x is not None:
        # Half precision is what a training stores; what is analysed is computed in float32.
        chosen["dtype"] = "float64" if x.dtype == torch.float64 or not x.dtype.is_floating_point else "float32"
    spec = RunSpec(models=words, **{**chosen, **settings_of(settings)})
    # How long the sequence is, and so which lags there are, is known where the objects at hand are, or from the task.
    asked = spec.task is not None or spec.probe or (spec.needs_lag is not None and spec.needs_lag < 1)
    lag = spec.needs_lag if asked else None
    check(replace(spec, models=(), needs_lag=lag), dict.fromkeys(NAMES, "given"))
    _refuse_unread(models, x, spec, settings)
    sources = [_source(model, word, spec, x) for model, word in zip(models, words, strict=True)]
    own = None if isinstance(loss, str) else own_loss(loss, f"loss {getattr(loss, '__name__', type(loss).__name__)}")
    return full_report_of_sources(sources, spec, x=x, loss=own, costs=compare)


def _refuse_unread(models: list[Any], x: Tensor | None, spec: RunSpec, given: dict[str, Any]) -> None:
    """Refuse what would be passed over: settings that no such model reads, or that say of the sequence what `x` says.

    Raises:
        UsageError: the first of them.
    """
    if x is not None:
        sizes = dict(zip(("batch", "length", "input_size"), x.shape, strict=False))
        for name in ("task", "input", "text", "sequence", "columns", "scale", "tokens", "embedding", *sizes):
            if given.get(name) not in (None, (), []) and getattr(spec, name) != sizes.get(name):
                held = f", which has shape {tuple(x.shape)}" if name in sizes else ""
                remedy = "cut x itself" if name in ("batch", "length") else "choose one sequence"
                raise UsageError(f"both x{held} and {name} are given; {remedy}")
    words = tuple(model if isinstance(model, str) else f"given:{type(model).__name__}" for model in models)
    for name, why in idle(replace(spec, models=words)).items():
        if name in given:
            raise UsageError(f"{name} is given, and nothing here reads it: {why.replace('given:', '')}; leave it out")


def settings_of(given: dict[str, Any]) -> dict[str, Any]:
    """Settings as Python has them, such as `dtype=torch.float32`, in the types that `RunSpec` declares.

    Raises:
        UsageError: an unknown name, or a value that the setting cannot be.
    """
    found = {}
    for name, value in given.items():
        if name not in NAMES:
            raise UsageError(unknown("setting", name, NAMES))
        if name in ("models", "loss"):
            raise UsageError(f"{name} is no setting here: it is an argument of its own")
        if isinstance(value, torch.dtype | torch.device):
            value = str(value).removeprefix("torch.")
        if name == "args" and isinstance(value, dict):
            value = {key: _literal(key, item) for key, item in value.items()}
        if value is not None and not (isinstance(value, list | tuple | dict) and not value):
            found[name] = coerce(name, value, "given")
    return found


def _literal(name: str, value: Any) -> str:
    """An argument of a factory as it would be written on the command line."""
    try:
        if isinstance(value, str) or ast.literal_eval(repr(value)) == value:
            return value if isinstance(value, str) else repr(value)
    except (ValueError, SyntaxError, TypeError):
        pass
    kind, remedy = type(value).__name__, "hand over a function that builds the model: analyze(lambda: Net(...))"
    raise UsageError(f"args: {safe_text(name)} is a {safe_text(kind)}; expected numbers and texts, or {remedy}")


def _given(x: Any) -> Tensor | None:
    if x is None:
        return None
    if not isinstance(x, Tensor):
        raise UsageError(f"x is a {type(x).__name__}; expected a tensor (batch, T, features)")
    if x.is_complex():
        remedy = "give real and imaginary parts as features, torch.cat((x.real, x.imag), -1)"
        raise UsageError(f"x holds complex numbers, a gradient is taken of real ones; {remedy}")
    # A tensor that was made under torch.inference_mode takes part in no gradient.
    return x.clone() if x.is_inference() else x


def _source(model: Any, word: str, spec: RunSpec, x: Tensor | None) -> Source:
    if x is not None and x.ndim == 3:
        spec = replace(spec, input_size=x.shape[-1])
    if isinstance(model, str):
        return source_of(model, spec)
    if isinstance(model, torch.nn.Module):
        # A copy to work on: nothing of the caller's is moved, cast or put into another mode.
        model = copied(model)
        if x is not None and spec.layout is None and not hasattr(model, "batch_first"):
            # With the caller's own data, what is analysed is what their training does: nothing is turned.
            spec = replace(spec, layout="batch-first")
    return source_from_object(model, word, spec)

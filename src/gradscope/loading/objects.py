"""Python objects as models: torch.nn recurrences, cells, causal modules, and tensors of Jacobians."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.chain import ArrayChain
from gradscope.errors import UsageError
from gradscope.loading.modules import from_module, from_torch
from gradscope.loading.source import Source
from gradscope.models.custom import CustomCell
from gradscope.models.direct import Direct
from gradscope.models.family import Model
from gradscope.models.recurrent import Recurrent
from gradscope.records import Loaded, RunSpec
from gradscope.text import safe_text


def source_from_reference(word: str, spec: RunSpec) -> Source:
    """`package.module:attr` or `path/to/file.py:attr`: the user's own code, imported because they named it.

    Raises:
        UsageError: it cannot be imported, has no such attribute, or is nothing that can be analysed.
    """
    place, _, attribute = word.rpartition(":")
    if not place:
        raise UsageError(f"cannot read '{safe_text(word)}' as a model; give a family, or file.py:attr")
    module = _import(place)
    if not hasattr(module, attribute):
        raise UsageError(f"'{safe_text(place)}' has no attribute '{safe_text(attribute)}'")
    return source_from_object(getattr(module, attribute), word, spec)


def _import(place: str) -> Any:
    """Import a file or a module, looking in the working directory too, last."""
    try:
        if not place.endswith(".py"):
            sys.path.append(str(Path.cwd()))
            try:
                return importlib.import_module(place)
            finally:
                sys.path.remove(str(Path.cwd()))
        path = Path(place)
        if not path.is_file():
            raise UsageError(f"no file '{safe_text(place)}'; check the path before the last colon")
        found = importlib.util.spec_from_file_location(path.stem, path)
        assert found is not None
        assert found.loader is not None
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"cannot import '{safe_text(place)}': {type(error).__name__}: {safe_text(error)}; it must import by itself"
        ) from error
    return module


def source_from_object(thing: Any, name: str, spec: RunSpec) -> Source:
    """What an object is: a model of gradscope, a recurrence of torch.nn, Jacobians, a cell or a causal module.

    Raises:
        UsageError: none of these.
    """
    dtype = getattr(torch, spec.dtype)
    if isinstance(thing, type) and (issubclass(thing, nn.Module) or hasattr(thing, "step")):
        thing = _call(thing, name)
    if isinstance(thing, Recurrent | Direct):
        return _fixed(name, thing, thing.input_size)
    if isinstance(thing, Tensor):
        return replace(_fixed(name, ArrayChain(thing.to(spec.device, dtype)), 0), is_chain=True)
    if isinstance(thing, nn.RNN | nn.GRU | nn.LSTM):
        return _fixed(name, from_torch(thing.to(spec.device, dtype), name), thing.input_size)
    if isinstance(thing, nn.Module) and not _is_cell(thing, spec):
        return from_module(thing.to(spec.device, dtype).eval(), name, spec)
    if callable(thing) and not hasattr(thing, "initial_state") and _takes_nothing(thing):
        return source_from_object(_call(thing, name), name, spec)
    if callable(thing) or hasattr(thing, "step"):
        cell = _cell(thing, name, spec)
        return _fixed(name, Recurrent(name, [cell], trained=True), cell.input_size)
    raise UsageError(
        f"'{safe_text(name)}' is a {type(thing).__name__}; expected an nn.Module, a cell step(x, state), or Jacobians"
    )


def _is_cell(module: nn.Module, spec: RunSpec) -> bool:
    """Whether a module is one step of a recurrence: it brings its first state, or the user gave its size."""
    return hasattr(module, "initial_state") or spec.state_size is not None


def _fixed(name: str, model: Model | ArrayChain, input_size: int) -> Source:
    return Source(name, lambda _size, _seed: model, input_size, Loaded(name, trained=True))


def _takes_nothing(function: Any) -> bool:
    """Whether something can be called without arguments: a factory, not a step."""
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError):
        return False
    return True


def _call(factory: Any, name: str) -> Any:
    try:
        return factory()
    except Exception as error:
        what = f"{type(error).__name__}: {safe_text(error)}"
        raise UsageError(f"cannot build '{safe_text(name)}': {what}; it is called without arguments") from error


def _cell(thing: Any, name: str, spec: RunSpec) -> CustomCell:
    """A user's cell; s_0 is its `initial_state` (a tensor or a function of the batch size) or zeros of --state-size."""
    step = thing.step if hasattr(thing, "step") and not isinstance(thing, nn.Module) else thing
    given = getattr(thing, "initial_state", None)
    if given is None and spec.state_size is None:
        raise UsageError(f"the cell '{safe_text(name)}' has no initial_state; give it one, or --state-size N")
    if given is None:
        initial = torch.zeros(spec.state_size or 0)
    else:
        initial = given(1) if callable(given) else torch.as_tensor(given)
        initial = initial[0] if initial.ndim == 2 else initial
    if initial.ndim != 1 or not len(initial):
        raise UsageError(f"the initial state of '{safe_text(name)}' has shape {tuple(initial.shape)}; expected (size,)")
    if isinstance(thing, nn.Module):
        step = thing.to(spec.device, getattr(torch, spec.dtype)).eval()
    size = spec.input_size if spec.input_size is not None else int(getattr(thing, "input_size", 16))
    return CustomCell("cell", step, initial.to(spec.device, getattr(torch, spec.dtype)), size)

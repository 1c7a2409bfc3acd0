"""Python objects as models: modules of torch, cells, factories of either, and tensors of Jacobians."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.chain import ArrayChain
from gradscope.config.check import FEATURES
from gradscope.config.places import is_file_of_numbers
from gradscope.errors import UsageError
from gradscope.isolation.state import own_random_numbers
from gradscope.isolation.user_files import Project, refer
from gradscope.loading.code.fill import fill
from gradscope.loading.code.modules import from_cell, from_module, from_torch, in_type
from gradscope.loading.code.step_function import is_cell, own_cell
from gradscope.loading.source import Source
from gradscope.loading.weights.jacobians import EXPECTED, real_jacobians
from gradscope.models.direct import Direct
from gradscope.models.family import Model
from gradscope.models.recurrent import Recurrent
from gradscope.records import AS_MADE, Loaded, RunSpec
from gradscope.text import safe_text


def source_from_reference(word: str, spec: RunSpec) -> Source:
    """What `module:attr` or `file.py:attr` names.

    Raises:
        UsageError: it cannot be imported, or is nothing that can be analysed.
    """
    thing, code = refer(word, spec.import_path)
    with code.active():
        source = source_from_object(thing, word, spec, code)
    if not code.changed:
        return source
    undone = f"its code sets the {' and the '.join(code.changed)} of the process; undone while it is analysed"
    return replace(source, loaded=replace(source.loaded, assumed=(*source.loaded.assumed, undone)))


def source_from_object(thing: Any, name: str, spec: RunSpec, code: Project | None = None) -> Source:
    """What an object is: a model of gradscope, a module of torch, Jacobians, a cell, or a factory of any of these.

    Args:
        thing: the object.
        name: what the user called it.
        spec: the settings.
        code: where its code is imported from; None for an object of the caller's.

    Raises:
        UsageError: none of these.
    """
    code = Project([]) if code is None else code
    if _is_factory(thing, spec):
        return replace(_made(thing, name, spec, code), code=code)
    if spec.args:
        raise UsageError(f"--arg is for a class or a factory; '{safe_text(name)}' is a {type(thing).__name__} already")
    return replace(_source(thing, name, spec), code=code)


def _source(thing: Any, name: str, spec: RunSpec) -> Source:
    """An object that is no factory."""
    dtype = getattr(torch, spec.dtype)
    assumed: tuple[str, ...] = ()
    if spec.weights is not None:
        if not isinstance(thing, nn.Module):
            raise UsageError(f"--weights fills an nn.Module; '{safe_text(name)}' is a {type(thing).__name__}")
        assumed = fill(thing, spec.weights, spec.key)
    loaded = Loaded(name, assumed, trained=True if spec.weights is not None else None)
    if isinstance(thing, Recurrent | Direct):
        return _fixed(name, thing, thing.input_size, loaded)
    if isinstance(thing, Tensor):
        if thing.ndim not in (3, 4) or thing.shape[-1] != thing.shape[-2] or 0 in thing.shape:
            raise UsageError(f"'{safe_text(name)}' has shape {tuple(thing.shape)}; {EXPECTED}")
        jacobians, said = real_jacobians(thing.detach().clone(), dtype, spec.device)
        chain = ArrayChain(jacobians)
        return replace(_fixed(name, chain, 0, replace(loaded, assumed=(*assumed, *said))), is_chain=True)
    if isinstance(thing, nn.RNN | nn.GRU | nn.LSTM):
        return _fixed(name, from_torch(in_type(thing, spec), name), thing.input_size, loaded)
    if isinstance(thing, nn.RNNCellBase):
        return _fixed(name, from_cell(in_type(thing, spec), name), thing.input_size, loaded)
    if isinstance(thing, nn.Module) and not is_cell(thing, spec):
        return from_module(thing, name, spec, loaded)
    if callable(thing) or hasattr(thing, "step"):
        return _of_cell(thing, name, spec, loaded)
    raise UsageError(
        f"'{safe_text(name)}' is a {type(thing).__name__}; expected an nn.Module, a cell step(x, state), or Jacobians"
    )


def _of_cell(thing: Any, name: str, spec: RunSpec, loaded: Loaded) -> Source:
    """A cell; as wide as a file of numbers is, where nobody says how many features it takes."""
    size = spec.input_size if spec.input_size is not None else getattr(thing, "input_size", None)
    if size is None and not is_file_of_numbers(spec.input):
        size = FEATURES

    @cache
    def built(width: int) -> Recurrent:
        return Recurrent(name, [own_cell(thing, name, spec, width)])

    if size is not None:
        built(int(size))
    return Source(name, lambda width, _seed: built(width if size is None else int(size)), size, loaded)


def _fixed(name: str, model: Model | ArrayChain, input_size: int, loaded: Loaded) -> Source:
    return Source(name, lambda _size, _seed: model, input_size, loaded)


def _is_factory(thing: Any, spec: RunSpec) -> bool:
    """Whether something is called to get the model: a class, or a function that needs no step's arguments."""
    if isinstance(thing, type):
        return issubclass(thing, nn.Module) or hasattr(thing, "step")
    if isinstance(thing, nn.Module | Tensor | Recurrent | Direct) or not callable(thing) or is_cell(thing, spec):
        return False
    return bool(spec.args) or _takes_nothing(thing)


def _takes_nothing(function: Any) -> bool:
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError):
        return False
    return True


def _made(factory: Callable[..., Any], name: str, spec: RunSpec, code: Project) -> Source:
    """A model of the factory's for every seed; its random weights are those of the seed."""
    source = _source(_call(factory, name, spec, spec.seed, code), name, spec)
    first = source.make

    def make(size: int, seed: int) -> Model | ArrayChain:
        if seed == spec.seed or spec.weights is not None:
            return first(size, seed)
        return _source(_call(factory, name, spec, seed, code), name, spec).make(size, seed)

    if spec.weights is None:
        source = replace(source, loaded=replace(source.loaded, assumed=(AS_MADE, *source.loaded.assumed)))
    return replace(source, make=make)


def _call(factory: Callable[..., Any], name: str, spec: RunSpec, seed: int, code: Project) -> Any:
    arguments = {key: _value(text) for key, text in spec.args.items()}
    try:
        with code.building(), own_random_numbers(seed):
            return factory(**arguments)
    except Exception as error:
        what = f"{type(error).__name__}: {safe_text(error)}"
        called = f"it was called with {safe_text(', '.join(arguments) or 'no arguments')}"
        raise UsageError(f"cannot build '{safe_text(name)}': {what}; {called}; use --arg name=value") from error


def _value(text: str) -> Any:
    """A Python literal, true or false, else the text itself."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text

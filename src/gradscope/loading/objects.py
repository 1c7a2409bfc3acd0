"""Python objects as models: modules of torch, cells, factories of either, and tensors of Jacobians."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.chain import ArrayChain
from gradscope.config.check import FEATURES
from gradscope.config.words import is_file_of_numbers
from gradscope.errors import UsageError
from gradscope.isolation.caller_state import own_random_numbers
from gradscope.isolation.user_code import Project, loaded_module, refer
from gradscope.loading.jacobians_file import EXPECTED, real_jacobians
from gradscope.loading.source import Source
from gradscope.loading.step_function import is_cell, own_cell
from gradscope.loading.user_module import fill, from_cell, from_module, from_torch, in_type
from gradscope.models.family import Model
from gradscope.models.stack import Recurrent
from gradscope.models.whole_module import WholeModule
from gradscope.records import AS_MADE, Loaded, RunSpec
from gradscope.text import safe_text

CUTS = ("detach", "detach_", "data", "no_grad", "inference_mode")
"""Attributes by which code takes values out of the graph."""


def definition(word: str) -> tuple[Path, int | None] | None:
    """File and line of what `module:attr` or `file.py:attr` names, after it was loaded; the file of a path alone.

    None for families and for what has no source. Nothing is imported here, and nothing of the user's runs.
    """
    place, colon, attribute = word.rpartition(":")
    if not colon:
        return (Path(word), None) if Path(word).is_file() else None
    if place.endswith(".py"):
        return (Path(place), _line(Path(place), attribute)) if Path(place).is_file() else None
    known = loaded_module(place)
    if known is None:
        return None
    module, project = known
    with project.active():
        found = _source_of(_attribute(module, attribute))
    if found is not None:
        return found
    file = getattr(module, "__file__", None)
    return (Path(file), _line(Path(file), attribute)) if file and file.endswith(".py") else None


def cut_in(path: Path, line: int | None) -> int | None:
    """The only line of a model's code that takes a value out of the graph; None where there is none, or several.

    Looked through is what is defined at `line`, else the whole file: for `detach()`, `.data` and `torch.no_grad()`.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
    defined = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
        and line in range(min([node.lineno, *(mark.lineno for mark in node.decorator_list)]), node.lineno + 1)
    ]
    for scope in (*defined[:1], tree):
        lines = {node.lineno for node in ast.walk(scope) if isinstance(node, ast.Attribute) and _is_cut(node)}
        if lines:
            return lines.pop() if len(lines) == 1 else None
    return None


def _is_cut(node: ast.Attribute) -> bool:
    return node.attr in CUTS and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))


def _attribute(module: Any, dotted: str) -> Any:
    found = module
    for part in dotted.split("."):
        found = getattr(found, part, None)
    return found


def _source_of(thing: Any) -> tuple[Path, int] | None:
    """Of a class or a function, wherever it was imported from."""
    if not inspect.isclass(thing) and not inspect.isroutine(thing):
        return None
    try:
        thing = inspect.unwrap(thing) if callable(thing) else thing
        file = inspect.getsourcefile(thing)
        return (Path(file), inspect.getsourcelines(thing)[1]) if file else None
    except (OSError, TypeError, ValueError):
        return None


def _line(path: Path, dotted: str) -> int | None:
    """The line that binds a dotted name in a source file: a class, a function, an assignment or an import."""
    try:
        body: list[ast.stmt] = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return None
    line = None
    for part in dotted.split("."):
        node = next((node for node in reversed(body) if part in _bound(node)), None)
        if node is None:
            return line
        line = node.lineno
        body = node.body if isinstance(node, ast.ClassDef) else []
    return line


def _bound(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return set()


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
    if isinstance(thing, Recurrent | WholeModule):
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
    if isinstance(thing, nn.Module | Tensor | Recurrent | WholeModule) or not callable(thing) or is_cell(thing, spec):
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

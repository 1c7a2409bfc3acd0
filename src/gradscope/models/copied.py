"""Copies of modules to work on."""

from __future__ import annotations

import copy
import types
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from gradscope.errors import UsageError
from gradscope.text import safe_text

Module = TypeVar("Module", bound=nn.Module)

ATOMIC = (
    type,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    str,
    bytes,
    int,
    float,
)
"""What a copy shares, so that nothing is looked for inside."""


def copied(module: Module) -> Module:
    """A deep copy; tensors that earlier calls left on the module or inside what it keeps are copied as numbers.

    Old weight_norm, cached activations and the distributions of a policy keep results with their graphs, which torch
    refuses to copy; parameters made under `torch.inference_mode` take part in no gradient unless they are made anew.

    Raises:
        UsageError: something it keeps cannot be copied (a lock, an open file); the message names the attribute.
    """
    memo: dict[int, Any] = {}
    for tensor in _tensors(module):
        if isinstance(tensor, nn.Parameter) and tensor.is_inference():
            memo[id(tensor)] = nn.Parameter(tensor.detach().clone(), tensor.requires_grad)
        elif not tensor.is_leaf or tensor.is_inference():
            memo[id(tensor)] = tensor.detach().clone()
    with torch.inference_mode(False):
        try:
            return copy.deepcopy(module, dict(memo))
        except Exception as error:
            kind, what = type(module).__name__, f"{type(error).__name__}: {safe_text(error, 80)}"
            where = _culprit(module, memo)
            named = f": its attribute {safe_text(where)}" if where else ""
            remedy = "set it to None before, or hand over a function that builds the module"
            raise UsageError(f"{kind} cannot be copied{named} ({what}); {remedy}") from error


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    """Every tensor that a deep copy of the module would copy, wherever it is kept."""
    waiting, seen = [module], set()
    while waiting:
        thing: Any = waiting.pop()
        if id(thing) in seen or isinstance(thing, ATOMIC):
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            yield thing
        elif isinstance(thing, dict):
            waiting += thing.values()
        elif isinstance(thing, list | tuple | set | frozenset):
            waiting += thing
        else:
            waiting += vars(thing).values() if hasattr(thing, "__dict__") else ()
            slots = (name for kind in type(thing).__mro__ for name in _slots(kind))
            waiting += [getattr(thing, name) for name in slots if hasattr(thing, name)]


def _slots(kind: type) -> tuple[str, ...]:
    found = vars(kind).get("__slots__", ())
    return (found,) if isinstance(found, str) else tuple(found)


def _culprit(module: nn.Module, memo: dict[int, Any]) -> str:
    """`head.writer`: the attribute that cannot be copied."""
    for place, part in module.named_modules():
        for name, value in vars(part).items():
            if isinstance(value, nn.Module) or name == "_modules":
                continue
            try:
                copy.deepcopy(value, dict(memo))
            except Exception:
                return f"{place}.{name}".lstrip(".")
    return ""

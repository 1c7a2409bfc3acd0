"""A user's module: copied to work on, and run again and again as if it were for the first time."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointFunction

from gradscope.errors import UsageError
from gradscope.models.output_shape import leaves_of
from gradscope.models.tolerances import tolerance
from gradscope.text import safe_text
from gradscope.torch_private import SUBMODULES, buffers_of, is_compiler_loaded, tree_leaves

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
            if isinstance(value, nn.Module) or name == SUBMODULES:
                continue
            try:
                copy.deepcopy(value, dict(memo))
            except Exception:
                return f"{place}.{name}".lstrip(".")
    return ""


OF_TORCH = frozenset(vars(nn.Module()))
"""What every module keeps for torch's own purposes."""


@contextmanager
def as_before(module: nn.Module) -> Iterator[None]:
    """Put back, afterwards, the tensors that a module keeps: buffers, and attributes such as a last hidden state."""
    parts = list(module.modules())
    buffers = [(part, dict(buffers_of(part))) for part in parts if buffers_of(part)]
    copies = {id(b): b.detach().clone() for _, held in buffers for b in held.values() if b is not None}
    attributes = [(part, _attributes(part)) for part in parts]
    try:
        yield
    finally:
        for part, held in buffers:
            buffers_of(part).update({name: _unwritten(buffer, copies) for name, buffer in held.items()})
        for part, before in attributes:
            _put_back(part, before)


def _unwritten(buffer: Tensor | None, copies: Mapping[int, Tensor]) -> Tensor | None:
    """The buffer, or the copy of it where it was written into: what a graph has kept of it must stay as it is."""
    if buffer is None:
        return None
    copy = copies[id(buffer)]
    return buffer if _identical(buffer, copy) else copy


def _identical(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def _attributes(part: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(part).items() if name not in OF_TORCH}


def _put_back(part: nn.Module, before: Mapping[str, Any]) -> None:
    now = _attributes(part)
    for name in {*before, *now}:
        if before.get(name) is now.get(name) or not _has_tensor(before.get(name), now.get(name)):
            continue
        if name in before:
            vars(part)[name] = before[name]
        else:
            del vars(part)[name]


def _has_tensor(*values: Any) -> bool:
    return any(isinstance(one, Tensor) for one in tree_leaves(values))


def uncompiled() -> AbstractContextManager[object]:
    """Run what torch.compile has wrapped, whole modules or parts, as it was written: compiled code has no hooks."""
    return torch.compiler.set_stance("force_eager") if is_compiler_loaded() else nullcontext()


@contextmanager
def checkpoints_kept() -> Iterator[None]:
    """Compute what a reentrant checkpoint would compute again as it stands: it refuses `torch.autograd.grad`."""

    def straight(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        return function(*args)

    own = vars(CheckpointFunction).get("apply")
    CheckpointFunction.apply = straight  # type: ignore[method-assign]
    try:
        yield
    finally:
        if own is None:
            del CheckpointFunction.apply
        else:
            CheckpointFunction.apply = own  # type: ignore[method-assign]


def alike(first: Any, second: Any, types: Collection[torch.dtype] = ()) -> bool:
    """Whether two runs returned the same, within the rounding of their own types and of those that took part inside."""
    pairs = zip(leaves_of(first), leaves_of(second), strict=False)
    return all(_near(a, b, types) for a, b in pairs if isinstance(a, Tensor) and isinstance(b, Tensor))


def _near(a: Tensor, b: Tensor, types: Collection[torch.dtype]) -> bool:
    if a.shape != b.shape or not b.numel():
        return a.shape == b.shape
    if not (b.is_floating_point() or b.is_complex()):
        return torch.equal(a, b)
    near = tolerance((a.dtype, *types)).outputs
    size = near * float(b.detach().nan_to_num(0, 0, 0).abs().max())
    return torch.allclose(a.to(b), b, near, size, equal_nan=True)


@contextmanager
def gradients_wanted(module: nn.Module, wanted: bool = True) -> Iterator[None]:
    """All parameters want gradients, or none, for a while; those that are made of others (scripted and cast) stay."""
    changed = [p for p in module.parameters() if p.requires_grad != wanted and p.is_floating_point() and p.is_leaf]
    for parameter in changed:
        parameter.requires_grad_(wanted)
    try:
        yield
    finally:
        for parameter in changed:
            parameter.requires_grad_(not wanted)

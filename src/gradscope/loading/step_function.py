"""A user's cell: step(x, state) -> state, or -> (output, state), as one layer."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.errors import UsageError
from gradscope.loading.first_state import first_states
from gradscope.loading.user_module import in_type
from gradscope.models.user_step import CustomCell
from gradscope.models.whole_module import default_dtype
from gradscope.records import RunSpec
from gradscope.text import safe_text


def is_cell(thing: Any, spec: RunSpec) -> bool:
    """Whether it is one step of a recurrence: it brings its first state, or the user gave it.

    A module with a `step` may count with it, or hold a cell under that name; one with an `initial_state` may use that
    itself, if it is called with a sequence alone: where the state may be left out and the first one is made from
    something else than the number of sequences.
    """
    if spec.state_size is not None or spec.state:
        return True
    if isinstance(thing, nn.Module):
        if not _has_forward(thing):
            return hasattr(thing, "step")
        return hasattr(thing, "initial_state") and _takes(thing, 2) and not (_takes(thing, 1) and _starts_apart(thing))
    return hasattr(thing, "initial_state") or hasattr(thing, "step")


def _has_forward(module: nn.Module) -> bool:
    return getattr(type(module), "forward", None) is not nn.Module.forward or "forward" in vars(module)


def _takes(module: nn.Module, count: int) -> bool:
    try:
        inspect.signature(module.forward).bind(*[None] * count)
    except (TypeError, ValueError):
        return False
    return True


def _starts_apart(module: nn.Module) -> bool:
    """Whether its `initial_state` is a function, and none of a number of sequences."""
    given: Any = module.initial_state
    if not callable(given):
        return False
    try:
        given(1)
    except (AttributeError, TypeError):
        return True
    return False


def own_cell(thing: Any, name: str, spec: RunSpec, size: int) -> CustomCell:
    """The cell; s_0 is from --state, else its `initial_state` (tensor or f(batch)), else zeros of --state-size.

    An `initial_state` is (size,), or (batch, size) with a state for each sequence.

    Raises:
        UsageError: no first state, or one that is no vector.
    """
    dtype, module = getattr(torch, spec.dtype), isinstance(thing, nn.Module)
    if module:
        thing = in_type(thing, spec).eval()
    step = thing.step if hasattr(thing, "step") and not module else thing
    initial = _initial(thing, name, spec).to(spec.device, dtype)
    given = getattr(thing, "initial_state", None)
    starts = partial(_called, given, name) if callable(given) and spec.state is None else None
    return CustomCell("cell", StateOf(step) if module else _state_of(step), initial, size, starts)


def _initial(thing: Any, name: str, spec: RunSpec) -> Tensor:
    given = getattr(thing, "initial_state", None)
    if given is None and spec.state_size is None and spec.state is None:
        remedy = "give it one, --state-size N or --state FILE"
        raise UsageError(f"the cell '{safe_text(name)}' has no initial_state; {remedy}")
    initial = torch.zeros(spec.state_size or 0)
    if given is not None:
        initial = _called(given, name, 1) if callable(given) else _as_state(given, name)
        # What a function says of one sequence is that of one; different rows belong to the sequences of a batch.
        same = initial.ndim == 2 and len(initial) > 0 and bool((initial == initial[:1]).all())
        initial = initial[0] if same else initial
    if spec.state is not None:
        # Without any other word on its size, the state in the file says how large it is.
        sizes = [(initial.shape[-1], 0)] if len(initial) else None
        initial = first_states(spec.state, sizes)[0][0]
    if initial.ndim not in (1, 2) or not initial.numel():
        shape, expected = tuple(initial.shape), "(size,), or (batch, size) with one for each sequence"
        raise UsageError(f"the initial state of '{safe_text(name)}' has shape {shape}; expected {expected}")
    return initial.detach()


def _called(given: Callable[[int], Any], name: str, batch: int) -> Tensor:
    """What an `initial_state` that is a function says of a batch."""
    try:
        state = given(batch)
    except Exception as error:
        what = f"{type(error).__name__}: {safe_text(error)}"
        raise UsageError(f"the initial_state of '{safe_text(name)}' fails on a batch of {batch}: {what}") from error
    return _as_state(state, name)


def _as_state(state: Any, name: str) -> Tensor:
    """One tensor."""
    try:
        return torch.as_tensor(state)
    except (TypeError, ValueError, RuntimeError):
        what, remedy = type(state).__name__, "put (h, c) side by side, torch.cat((h, c), -1), and split it in the step"
        raise UsageError(
            f"the initial state of '{safe_text(name)}' is a {what}; expected one tensor (size,): {remedy}"
        ) from None


class StateOf(nn.Module):
    """A module's new state, where it returns an output beside it; of one without `forward`, that of its `step`."""

    def __init__(self, inner: nn.Module) -> None:
        """Take the user's module."""
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, s: Tensor) -> Any:
        """The new state."""
        step: Any = self.inner if _has_forward(self.inner) else self.inner.step
        return _new_state(step, x, s)


def _state_of(step: Callable[[Tensor, Tensor], Any]) -> Callable[[Tensor, Tensor], Any]:
    return partial(_new_state, step)


def _new_state(step: Callable[[Tensor, Tensor], Any], x: Tensor, s: Tensor) -> Any:
    """What a step makes of copies, which it may write into; numbers of another precision in that of the state."""
    with default_dtype(s.dtype):
        new = _last_like(step(x.clone(), s.clone()), s)
    return new.to(s.dtype) if isinstance(new, Tensor) and new.is_floating_point() else new


def _last_like(returned: Any, s: Tensor) -> Any:
    """The last of several returned tensors that has the shape of the state; what is returned, where it is one thing."""
    if not isinstance(returned, tuple | list):
        return returned
    fitting = [part for part in returned if isinstance(part, Tensor) and part.shape == s.shape]
    return fitting[-1] if fitting else returned

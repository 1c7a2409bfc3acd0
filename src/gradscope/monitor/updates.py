"""When the weights were updated: hooks on every optimizer of torch, and a look at the weights for any other."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from gradscope.monitor.ear import Ear, Hook
from gradscope.trajectory import Point


@dataclass(eq=False)
class Stream:
    """The updates of some layers by one optimizer: their count, and what is measured of the layers."""

    ears: list[Ear]
    at: int
    """Updates that were done."""
    armed: bool
    """Whether this update is measured."""
    optimizer: weakref.ref[Optimizer] | None = None
    """None until one of torch has updated them."""
    stepping: bool = False
    """Whether the optimizer is in its step."""
    closure: bool = False
    """Whether it was given a closure, which does the backward pass itself."""
    early: bool = False
    """Whether a gradient was there before a closure ran, to which it may add."""
    stamp: int = 0
    """The newest backward pass that was measured, or used up by an update."""
    weights: str | None = None
    """What the weights looked like at the last backward pass, where no optimizer is known."""
    pending: list[Point] = field(default_factory=list)
    loss: float | None = None
    strangers: int = 0
    """Steps of another optimizer of the same parameters since the last of this one."""


class Optimizers:
    """Calls back before and after each step of any optimizer of torch, as long as the owner of the callbacks lives."""

    def __init__(
        self,
        before: Callable[[Optimizer, bool], None],
        after: Callable[[Optimizer], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """Hook all optimizers, those that are made later too.

        Args:
            before: a bound method; called with the optimizer and whether it was given a closure.
            after: the same, after the step.
            failed: told of what goes wrong in a hook.
        """
        # These hooks belong to the process: what they hold would live as long.
        early, late, wrong = _weakly(before), _weakly(after), _weakly(failed)
        handles = [
            register_optimizer_step_pre_hook(Hook(lambda o, args, kwargs: early(o, _has_closure(args, kwargs)), wrong)),
            register_optimizer_step_post_hook(Hook(lambda o, args, kwargs: late(o), wrong)),
        ]
        self.remove = weakref.finalize(before.__self__, _remove, handles)  # type: ignore[attr-defined]
        """Take the hooks away; done by itself when the owner goes."""


def ids_of(optimizer: Optimizer) -> set[int]:
    """The parameters that an optimizer updates, by id."""
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def ids_in(layers: Iterable[nn.Module]) -> set[int]:
    """The parameters of layers, by id."""
    return {id(p) for layer in layers for p in layer.parameters()}


def has_optimizer(ids: set[int]) -> bool:
    """Whether an optimizer of torch, stepped or not, has any of some parameters; torch keeps no list of them."""
    return any(issubclass(type(one), Optimizer) and ids & ids_of(one) for one in gc.get_objects())


def is_skipped(optimizer: Optimizer) -> bool:
    """Whether a fused optimizer was stepped but told by a loss scaler to leave the weights as they are."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(float(found))


def looks(parameters: Sequence[nn.Parameter]) -> str:
    """Something that changes when weights do, however they are written."""
    # `parameter.data` has a count of its own.
    sample = f"{parameters[0].detach().abs().double().cpu().sum().item()!r}" if parameters else ""
    return f"{sum(parameter._version for parameter in parameters)} {sample}"


def _weakly(method: Callable[..., None]) -> Callable[..., None]:
    held = weakref.WeakMethod(method)

    def call(*given: Any) -> None:
        if (alive := held()) is not None:
            alive(*given)

    return call


def _remove(handles: list[Any]) -> None:
    for handle in handles:
        handle.remove()


def _has_closure(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    # The optimizer itself is the first of the arguments of its bound step.
    given = [part for part in args if callable(part) and not isinstance(part, Optimizer)]
    return bool(given) or kwargs.get("closure") is not None

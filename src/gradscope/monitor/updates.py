"""When the weights were updated: hooks on every optimizer of torch, and a look at the weights for any other."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from gradscope.monitor.gradients import Gradients


class Updates:
    """Calls back before and after each update of the watched parameters."""

    def __init__(self, gradients: Gradients, before: Callable[[bool], None], after: Callable[[bool], None]) -> None:
        """Hook all optimizers; those of other models are left alone.

        Args:
            gradients: knows the parameters.
            before: called with whether the optimizer was given a closure, which does the backward pass itself.
            after: the same, after the update.
        """
        self.seen = False
        """Whether an optimizer of torch has updated the parameters."""
        self.is_plain = False
        """Whether it did so without a closure, so that its hook comes between the last backward pass and the update."""
        self._gradients = gradients
        self._own: weakref.ref[torch.optim.Optimizer] | None = None
        self._version = self._versions()

        def pre(optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._is_own(optimizer):
                before(_has_closure(args, kwargs))

        def post(optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._is_own(optimizer):
                closure = _has_closure(args, kwargs)
                self.seen, self.is_plain, self._version = True, not closure, self._versions()
                after(closure)

        self._handles = [register_optimizer_step_pre_hook(pre), register_optimizer_step_post_hook(post)]

    def happened_unseen(self) -> bool:
        """Whether the weights were updated since the last time by something that is no optimizer of torch."""
        if self.seen:
            return False
        now, before = self._versions(), self._version
        self._version = now
        return now != before

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()

    def _is_own(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether this is the optimizer whose updates count: the first that has any of the parameters."""
        known = self._own() if self._own is not None else None
        if known is None and self._gradients.owns(optimizer):
            self._own, known = weakref.ref(optimizer), optimizer
        return known is optimizer

    def _versions(self) -> int:
        return sum(parameter._version for parameter in self._gradients.parameters)


def _has_closure(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    # The optimizer itself is the first of the arguments of its bound step.
    given = [part for part in args if callable(part) and not isinstance(part, torch.optim.Optimizer)]
    return bool(given) or kwargs.get("closure") is not None

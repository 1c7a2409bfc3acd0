"""The gradient of an update before and after clipping: norms, the angle between them, and what was accumulated."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradscope.monitor.layer_recorder import Hook
from gradscope.torch_private import after_backward, backward_number, write_count
from gradscope.trajectory import Norms

MOST_ASKED = 64
"""Calls of torch.autograd.grad that are remembered of a parameter."""


class Gradients:
    """Reads the gradients of a model when a backward pass has ended, and again when an optimizer uses them."""

    def __init__(
        self,
        model: nn.Module,
        watched: Iterable[nn.Module],
        added: Callable[[bool], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """Nothing is hooked yet.

        Args:
            model: norms are over its parameters.
            watched: the watched layers; the angle is over their parameters.
            added: called when a backward pass has added to gradients, with whether it is over.
            failed: told of what goes wrong in a hook.
        """
        self._model, self._watched = model, tuple(watched)
        self._tell_added, self._failed = added, failed
        self._handles: dict[int, RemovableHandle] = {}
        self._reached: dict[int, _Reached] = {}
        self._norms: dict[int, Tensor] = {}
        self._copies: dict[int, Tensor] = {}
        self._added: dict[int, list[int]] = {}
        """The backward passes, by their numbers in torch, whose gradients lie added up in p.grad of a parameter."""
        self._handed: dict[int, list[int]] = {}
        """Those that handed a parameter's gradient to whoever asked for it, as torch.autograd.grad does."""
        self._stamps: dict[int, int] = {}
        self._passes = 0
        self._waiting = False
        self.dropped = False
        """Whether gradients were thrown away before an update used them."""

    def attend(self) -> None:
        """Hook the parameters that get a gradient and have no hook yet: some are unfrozen, or made anew, later."""
        for parameter in self._model.parameters():
            if id(parameter) not in self._handles and parameter.requires_grad and parameter.is_leaf:
                look = Hook(partial(self._reach, parameter), self._failed)
                self._handles[id(parameter)] = parameter.register_hook(look)

    def attends(self, layer: nn.Module) -> bool:
        """Whether all parameters of a layer that get a gradient have a hook."""
        return all(id(p) in self._handles for p in layer.parameters() if p.requires_grad and p.is_leaf)

    def release(self) -> None:
        """Take the hooks away."""
        for handle in self._handles.values():
            handle.remove()
        self._handles = {}

    def newest(self, ids: set[int]) -> int:
        """The number of the newest backward pass that reached any of some parameters; 0 for none."""
        return max((self._stamps[key] for key in ids & self._stamps.keys()), default=0)

    def worth(self, layer: nn.Module, task: int) -> int:
        """How much a backward pass counts as the training of a layer, by its number in torch.

        2: its gradient lies in p.grad of the layer, or of the model where the layer is frozen. 1: it was asked for the
        gradient of such a parameter, which the caller may put there. 0: neither, as where it was asked for that of the
        inputs alone.
        """
        own = {id(p) for p in layer.parameters() if p.requires_grad}
        for value, found in ((2, self._added), (1, self._handed)):
            if any(task in tasks for key, tasks in found.items() if not own or key in own):
                return value
        return 0

    def forget(self, ids: set[int]) -> None:
        """An update of these parameters is done: what was kept of it goes."""
        for key in ids:
            for kept in (self._reached, self._norms, self._copies, self._added, self._handed):
                kept.pop(key, None)

    def raw(self, ids: set[int], scale: float) -> Norms | None:
        """The norm over some parameters before clipping; None where no backward pass left them a gradient."""
        if self._waiting:
            # An optimizer that steps within the backward pass.
            self._read(over=False)
        keys = [id(p) for p in self._model.parameters() if id(p) in ids and p.grad is not None and id(p) in self._norms]
        if not keys:
            return None
        return Norms(
            log10_raw=_log10(self._norms[key] for key in keys) - math.log10(scale),
            backwards=max(len(self._added.get(key, [0])) for key in keys),
            loss_scale=scale if scale != 1.0 else None,
        )

    def clipped(self, ids: set[int], optimizer: Any) -> tuple[float, float | None] | None:
        """log10 of the norm that the update used, and the cosine of its angle to the raw gradient."""
        known = [p for p in self._model.parameters() if id(p) in ids and p.grad is not None]
        if not known:
            return None
        # A fused optimizer divides by the loss scale itself, in its step.
        scale = getattr(optimizer, "grad_scale", None)
        size = _log10(_norm(p.grad) for p in known if p.grad is not None)
        return size - (0.0 if scale is None else math.log10(float(scale))), self._cosine(known)

    def _reach(self, parameter: nn.Parameter, _: Tensor) -> None:
        """A backward pass hands a parameter its gradient, which is not yet added to what it had."""
        key, grad = id(parameter), parameter.grad
        version = None if grad is None else write_count(grad)
        fresh, task = grad is None or not _any(grad), backward_number()
        self._reached[key] = _Reached(parameter, grad, version, fresh, self._stamps.get(key), task)
        if not self._waiting:
            self._waiting = True
            self._passes += 1
            self._after_backward(_over_processes())
        self._stamps[key] = self._passes

    def _after_backward(self, rounds: int) -> None:
        """Read when the pass is over; behind what data parallelism does then, where there are several processes."""

        def over() -> None:
            if rounds:
                self._after_backward(rounds - 1)
            elif self._waiting:
                self._read(over=True)

        after_backward(Hook(over, self._failed))

    def _read(self, *, over: bool) -> None:
        """Read what was added to gradients: torch.autograd.grad adds nothing."""
        self._waiting, found = False, False
        watched = {id(p) for layer in self._watched for p in layer.parameters()}
        for key, one in list(self._reached.items()):
            grad = one.parameter.grad
            if grad is None or (grad is one.grad and write_count(grad) == one.version):
                if over:
                    del self._reached[key]
                    self._handed[key] = [*self._handed.get(key, [])[1 - MOST_ASKED :], one.task]
                    if one.stamp is None:
                        self._stamps.pop(key, None)
                    else:
                        self._stamps[key] = one.stamp
                continue
            del self._reached[key]
            found = True
            self.dropped |= one.fresh and key in self._added
            self._added[key] = [one.task] if one.fresh else [*self._added.get(key, []), one.task]
            self._norms[key] = _norm(grad)
            if key in watched:
                self._copies[key] = grad.detach().clone()
        if found:
            self._tell_added(over)

    def _cosine(self, parameters: Iterable[nn.Parameter]) -> float | None:
        dot = raw = clipped = 0.0
        for p in parameters:
            if (before := self._copies.get(id(p))) is None or p.grad is None or p.grad.shape != before.shape:
                continue
            old, new = _real(before).double().flatten(), _real(p.grad).double().flatten()
            # The scale of either is no matter for an angle; it keeps squares in range.
            dot, raw, clipped = dot + float(old @ new), raw + float(old @ old), clipped + float(new @ new)
        if raw <= 0 or clipped <= 0 or not math.isfinite(raw * clipped):
            return None
        return max(-1.0, min(1.0, dot / math.sqrt(raw) / math.sqrt(clipped)))


@dataclass(frozen=True)
class _Reached:
    """A parameter that a backward pass hands a gradient, as it was before that."""

    parameter: nn.Parameter
    grad: Tensor | None
    version: int | None
    fresh: bool
    """Whether nothing was accumulated yet."""
    stamp: int | None
    """The backward pass that had reached it before."""
    task: int
    """The number of this one in torch."""


def _over_processes() -> int:
    """1 where gradients may be averaged over several processes at the end of a backward pass, else 0."""
    return int(torch.distributed.is_available() and torch.distributed.is_initialized())


def _any(gradient: Tensor) -> bool:
    return bool((gradient.coalesce().values() if gradient.is_sparse else gradient).any())


def _real(gradient: Tensor) -> Tensor:
    """Its numbers: those that a sparse one has, pairs of real ones for complex ones, where there is float64."""
    dense = gradient.detach()
    dense = dense.coalesce().values() if dense.is_sparse else dense
    dense = torch.view_as_real(dense.resolve_conj()) if dense.is_complex() else dense
    return dense.cpu() if dense.device.type == "mps" else dense


def _norm(gradient: Tensor) -> Tensor:
    """Its Euclidean norm in float64: float32 squares underflow."""
    norm: Tensor = torch.linalg.vector_norm(_real(gradient), dtype=torch.float64)
    return norm


def _log10(norms: Iterable[Tensor]) -> float:
    values = [float(norm) for norm in norms]
    total = math.sqrt(math.fsum(value * value for value in values)) if all(map(math.isfinite, values)) else sum(values)
    if total == 0 and any(values):
        total = max(values)
    return math.log10(total) if total > 0 else total if math.isnan(total) else -math.inf

"""When the weights were updated: hooks on every optimizer of torch, and a look at the weights for any other."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from gradscope.monitor.layer_recorder import Hook, LayerRecorder
from gradscope.torch_private import write_count
from gradscope.trajectory import Point


@dataclass(eq=False)
class Stream:
    """The updates of some layers by one optimizer: their count, and what is measured of the layers."""

    recorders: list[LayerRecorder]
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

    def trains(self, recorder: LayerRecorder) -> bool:
        """Whether its optimizer is gone, or has any parameter of the layer."""
        if self.optimizer is None:
            return False
        alive = self.optimizer()
        return alive is None or bool(ids_of(alive) & ids_in([recorder.layer]))


class Streams:
    """The updates of all watched layers, by the optimizer that makes them."""

    def __init__(self, model: nn.Module, recorders: Sequence[LayerRecorder], at: int, armed: bool) -> None:
        """One stream of all layers, until their optimizers step."""
        self._model, self._recorders = model, tuple(recorders)
        self._every = [Stream(list(recorders), at, armed)]

    def __iter__(self) -> Iterator[Stream]:
        return iter(self._every)

    @property
    def free(self) -> Stream | None:
        """The layers that no optimizer of torch has trained yet."""
        return next((stream for stream in self._every if stream.optimizer is None), None)

    def listening(self, recorder: LayerRecorder | None) -> Stream:
        """The stream of a layer; the first one for the whole of a model."""
        return next((stream for stream in self._every if recorder in stream.recorders), self._every[0])

    def of(self, optimizer: Optimizer) -> Stream | None:
        """The stream that is known to be an optimizer's."""
        held = ((stream, stream.optimizer) for stream in self._every)
        return next((stream for stream, one in held if one is not None and one() is optimizer), None)

    def claimed(self, optimizer: Optimizer) -> Stream | None:
        """Whose updates an optimizer makes: those of the layers whose parameters it has; None for another model's.

        It may be given some later, as layers that are unfrozen are. Layers that nothing trains go with the first.
        """
        own, ids, free = self.of(optimizer), ids_of(optimizer), self.free
        if not self._recorders and own is None and free is not None:
            if not ids & ids_in([self._model]):
                return None
            free.optimizer = weakref.ref(optimizer)
            return free
        for stream in [stream for stream in self._every if stream is not own and not stream.stepping]:
            mine = [
                recorder
                for recorder in stream.recorders
                if ids & ids_in([recorder.layer]) and not stream.trains(recorder)
            ]
            if own is None and stream.optimizer is None and ids & ids_in([self._model]):
                mine += [
                    recorder for recorder in stream.recorders if recorder not in mine and _is_frozen(recorder.layer)
                ]
            if mine:
                own = self._moved(stream, mine, optimizer, own)
        return own or self._taken_over(optimizer, ids)

    def _moved(self, old: Stream, mine: list[LayerRecorder], optimizer: Optimizer, own: Stream | None) -> Stream:
        """Layers that an optimizer trains from now on are counted by it."""
        names = {recorder.name for recorder in mine}
        kept = [point for point in old.pending if point.layer in names]
        old.recorders = [recorder for recorder in old.recorders if recorder not in mine]
        old.pending = [point for point in old.pending if point.layer not in names]
        if own is None:
            # The optimizer that they went with until now may have stepped already in this update.
            at = kept[-1].step if kept else old.at
            own = replace(
                old, recorders=[], pending=[], optimizer=weakref.ref(optimizer), weights=None, strangers=0, at=at
            )
            self._every.append(own)
        own.recorders = [recorder for recorder in self._recorders if recorder in own.recorders or recorder in mine]
        own.pending = [*kept, *own.pending]
        if not old.recorders:
            own.pending = [*old.pending, *own.pending]
            self._every.remove(old)
        elif old.weights is not None:
            old.weights = self.weights_fingerprint(old)
        return own

    def _taken_over(self, optimizer: Optimizer, ids: set[int]) -> Stream | None:
        """The stream of an optimizer that is gone, or that no longer steps while this one does with its parameters."""
        for stream in self._every:
            if stream.optimizer is None or stream.stepping:
                continue
            old = stream.optimizer()
            layers: list[nn.Module] = [*(recorder.layer for recorder in stream.recorders)] or [self._model]
            if ids & (ids_of(old) if old is not None else ids_in(layers)):
                stream.strangers += 1
                if old is None or stream.strangers > 1:
                    stream.optimizer = weakref.ref(optimizer)
                    return stream
        return None

    def ids(self, stream: Stream) -> set[int]:
        """The parameters that its updates change."""
        old = stream.optimizer() if stream.optimizer is not None else None
        every = ids_in([self._model])
        if old is not None:
            return every & ids_of(old)
        taken = [other.optimizer() for other in self._every if other.optimizer is not None]
        return every.difference(*(ids_of(one) for one in taken if one is not None))

    def weights_fingerprint(self, free: Stream) -> str:
        """Something that changes when the weights that no optimizer is known of do."""
        own = self.ids(free)
        modules: list[nn.Module] = [*(recorder.layer for recorder in free.recorders), self._model]
        return looks([p for module in modules for p in module.parameters() if id(p) in own])


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


def _is_frozen(layer: nn.Module) -> bool:
    """Whether nothing trains a layer: it has no gradients for now, and no optimizer has it for later."""
    return not any(p.requires_grad for p in layer.parameters()) and not has_optimizer(ids_in([layer]))


def is_skipped(optimizer: Optimizer) -> bool:
    """Whether a fused optimizer was stepped but told by a loss scaler to leave the weights as they are."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(float(found))


def looks(parameters: Sequence[nn.Parameter]) -> str:
    """Something that changes when weights do, however they are written."""
    # `parameter.data` has a count of its own.
    sample = f"{parameters[0].detach().abs().double().cpu().sum().item()!r}" if parameters else ""
    return f"{sum(write_count(parameter) for parameter in parameters)} {sample}"


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

"""A second look at a pass, without gradients: how long values live, what they are called, and what they are."""

from __future__ import annotations

import dis
import os
import sys
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gradscope.forward.executed_steps import Position
from gradscope.forward.recorder import NUMBERS, is_inside_function, stepwise
from gradscope.models.input_leaf import given
from gradscope.models.user_modules import gradients_wanted
from gradscope.models.whole_module import WholeModule
from gradscope.torch_private import is_transformed, untransformed

_CODES: dict[Any, list[tuple[int, str, str]]] = {}
Call = tuple[int, int]
"""Which call, and which of its results."""
NOT_OURS = tuple(
    f"{Path(one.__file__ or '').parent}{os.sep}" for one in (torch, sys.modules[__package__ or "gradscope"])
)


@dataclass(eq=False)
class CallSites:
    """What was seen."""

    raw: Any
    count: int
    lifetimes: dict[Call, int] = field(default_factory=dict)
    positions: list[Position] = field(default_factory=list)
    """Where every call came from."""
    values: dict[Call, Tensor] = field(default_factory=dict)
    names: dict[Call, str] = field(default_factory=dict)
    answers: list[Any] = field(default_factory=list)
    """What Python was told when it looked at numbers."""


def lifetimes(model: WholeModule, x: Tensor, answers: Sequence[Any] = ()) -> CallSites:
    """How many calls every result of a call outlives."""
    return look_at(model, x, Lives(), answers)


def values(
    model: WholeModule, x: Tensor, wanted: frozenset[Call], named: frozenset[Call], answers: Sequence[Any] = ()
) -> CallSites:
    """Values of some results; the names that some of them have in the user's code."""
    return look_at(model, x, Values(model.module, wanted, named), answers)


def answers_of(model: WholeModule, x: Tensor) -> list[Any]:
    """What Python is told when it looks at numbers on the way."""
    return look_at(model, x, Counting(), ()).answers


def look_at(model: WholeModule, x: Tensor, mode: Counting, answers: Sequence[Any] = ()) -> CallSites:
    """One pass under a mode that watches it."""
    mode.given = list(answers)[::-1]
    taken = given(model.module, x, model.tables)
    # Gradients stay switched on, since code may ask for that; but nothing wants any.
    if taken.leaf is not None:
        taken.taken = taken.taken.detach()
    with stepwise(x), gradients_wanted(model.module, False), torch.enable_grad():
        mode.found.raw = model.run(taken.taken, mode, copied=True)
    mode.found.count = mode.count
    mode.finish()
    return mode.found


class Counting(TorchFunctionMode):
    """Counts calls as the recorder does."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.found = CallSites(None, 0)
        self.given: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One call."""
        if is_inside_function():
            return func(*args, **(kwargs or {}))
        self.count += 1
        if func in NUMBERS and not is_transformed():
            self.found.answers.append(self.given.pop() if self.given else func(*args, **(kwargs or {})))
            return self.found.answers[-1]
        found = func(*args, **(kwargs or {}))
        if func is Tensor.__setitem__:
            self.note(args[0], 0)
        elif isinstance(found, Tensor):
            self.note(found, 0)
        elif isinstance(found, tuple | list):
            for place, one in enumerate(found):
                if isinstance(one, Tensor):
                    self.note(one, place)
        return found

    def note(self, value: Tensor, place: int) -> None:
        """A result."""

    def finish(self) -> None:
        """The pass is over."""


class Lives(Counting):
    """Notes where calls come from, and when their results are forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.born: dict[int, tuple[Any, Call]] = {}
        self.places: dict[Position, Position] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One call."""
        if not is_inside_function():
            place = position(sys._getframe(1))
            self.found.positions.append(self.places.setdefault(place, place))
        return super().__torch_function__(func, types, args, kwargs)

    def note(self, value: Tensor, place: int) -> None:
        """Born now."""
        reference = weakref.ref(value, self._gone)
        self.born[id(reference)] = (reference, (self.count, place))

    def _gone(self, reference: Any) -> None:
        _, call = self.born.pop(id(reference))
        self.found.lifetimes[call] = self.count - call[0]

    def finish(self) -> None:
        """What is still there outlives everything."""
        self.found.lifetimes |= {call: 2**20 for _, call in self.born.values()}
        self.born.clear()


def position(frame: FrameType | None) -> Position:
    """The instruction that every function on the way to a call is at, outermost first."""
    found = []
    while frame is not None and frame.f_code is not look_at.__code__:
        found.append(frame.f_lasti)
        frame = frame.f_back
    return tuple(found[::-1])


class Values(Counting):
    """Keeps some results."""

    def __init__(self, module: nn.Module, wanted: frozenset[Call], named: frozenset[Call]) -> None:
        super().__init__()
        self.wanted, self.named = wanted, named
        self.paths = {id(part): name for name, part in module.named_modules()}
        self.open: dict[Call, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One call; what is looked for may have got its name since the last."""
        if self.open:
            self._name()
        return super().__torch_function__(func, types, args, kwargs)

    def note(self, value: Tensor, place: int) -> None:
        """A result, as it is now."""
        call = (self.count, place)
        if call in self.wanted:
            self.found.values[call] = untransformed(value).detach().clone()
        if call in self.named:
            name = next_name(sys._getframe(2), self.paths)
            if name is None:
                self.open[call] = value
            else:
                self.found.names[call] = name

    def _name(self) -> None:
        frames = list(_frames(sys._getframe(2)))
        for call, value in list(self.open.items()):
            name = next((n for frame in frames if (n := _bound(frame, value, self.paths))), None)
            if name is not None:
                self.found.names[call] = name
                del self.open[call]


def _frames(frame: FrameType | None) -> Any:
    """The user's own frames, innermost first."""
    while frame is not None:
        if not frame.f_code.co_filename.startswith(NOT_OURS):
            yield frame
        frame = frame.f_back


def innermost(frame: FrameType | None, paths: Mapping[int, str]) -> str:
    """The submodule in whose code a frame is, torch's own modules included."""
    while frame is not None:
        path = paths.get(id(frame.f_locals.get("self")))
        if path is not None:
            return path.replace("_orig_mod.", "")
        frame = frame.f_back
    return ""


def next_name(frame: FrameType | None, paths: Mapping[int, str]) -> str | None:
    """The variable that the value which is just being computed goes to, in the frame where that happens.

    A value that is returned at once takes the name that its caller gives it.
    """
    for own in _frames(frame):
        following = _following(own)
        if following.startswith("STORE_FAST "):
            name = following.removeprefix("STORE_FAST ")
            path = paths.get(id(own.f_locals.get("self")), "").replace("_orig_mod.", "")
            return f"{path}.{name}" if path else name
        if following != "RETURN_VALUE":
            return None
    return None


def _following(frame: FrameType) -> str:
    """The instruction after the one that a frame is at."""
    code = frame.f_code
    if code not in _CODES:
        _CODES[code] = [(one.offset, one.opname, one.argrepr) for one in dis.get_instructions(code)]
    place = next((i for i, (offset, _, _) in enumerate(_CODES[code]) if offset > frame.f_lasti), None)
    if place is None:
        return ""
    _, name, argument = _CODES[code][place]
    return f"{name} {argument}".strip()


def _bound(frame: FrameType, value: Tensor, paths: Mapping[int, str]) -> str | None:
    """What a frame calls a value: a variable, an attribute of its module, or an item of either."""
    own = frame.f_locals
    module = own.get("self")
    if id(module) not in paths:
        return None
    path = paths[id(module)].replace("_orig_mod.", "")
    places = [*own.items(), *((f"self.{name}", thing) for name, thing in vars(module).items())]
    found = next((name for name, thing in places if thing is value), None)
    if found is None:
        small = sorted(places, key=lambda place: len(_items(place[1])))
        found = next((f"{n}[{i}]" for n, thing in small for i, item in _items(thing) if item is value), None)
    if found is None:
        return None
    found = found.removeprefix("self.")
    return f"{path}.{found}" if path else found


def _items(thing: Any) -> Sequence[tuple[Any, Any]]:
    if isinstance(thing, tuple | list) and len(thing) <= 64:
        return list(enumerate(thing))
    return [(repr(key), item) for key, item in list(thing.items())[:64]] if isinstance(thing, dict) else []

"""One forward pass recorded: the graph that autograd keeps of it, with what autograd would leave out.

Autograd's graph is functional already: writes in place, views and buffers are resolved in it. Three things are added
while the pass runs. A detach stays visible as an operation whose gradient is zero, so that a cut is told from a
restart. States that the module makes (zeros and the like) want gradients, so that ds_1/ds_0 exists. And what is read
back from a buffer, at the place where it was written, is the thing that was written and not the whole buffer.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from gradscope.models.input_leaf import LOOKUPS, Given, given
from gradscope.models.output_shape import reals
from gradscope.models.user_modules import gradients_wanted
from gradscope.models.whole_module import WholeModule
from gradscope.torch_private import is_transformed, is_view, tree_leaves, untransformed, write_count

Place = tuple[int, int]
"""Axis and index."""


class Written:
    """For every buffer, what was last written at which index of one axis."""

    def __init__(self) -> None:
        self.buffers: Any = WeakIdKeyDictionary()

    def write(self, func: Any, buffer: Any, key: Any, value: Any) -> Any:
        """Buffer[key] = value, remembered where the key is one index of one axis."""
        version = write_count(buffer)
        found = func(buffer, key, value)
        known = self._known(buffer, version)
        place = _from_front(place_of(key, buffer.ndim), buffer)
        if place is None or not isinstance(value, Tensor) or (known and next(iter(known))[0] != place[0]):
            known = {}
        elif value.requires_grad and torch.is_grad_enabled() and value.shape == _shape(buffer, place[0]):
            known[place] = (value, write_count(value))
        else:
            known.pop(place, None)
        self.buffers[buffer] = (write_count(buffer), known)
        return found

    def read(self, buffer: Any, key: Any) -> Tensor | None:
        """What was written there and has not changed since; None where that is not known."""
        if not isinstance(buffer, Tensor) or buffer not in self.buffers:
            return None
        place = _from_front(place_of(key, buffer.ndim), buffer)
        kept = None if place is None else self._known(buffer, write_count(buffer)).get(place)
        if kept is None:
            return None
        value, version = kept
        return value.clone() if write_count(value) == version else None

    def _known(self, buffer: Tensor, version: int) -> dict[Place, tuple[Tensor, int]]:
        """What is known of a buffer that nobody else has written into."""
        before, known = self.buffers.get(buffer, (version, {}))
        return known if before == version else {}


def place_of(key: Any, ndim: int) -> Place | None:
    """(axis, index) of a key such as `[:, 3]`; None for any other."""
    parts = key if isinstance(key, tuple) else (key,)
    if Ellipsis in [part for part in parts if not isinstance(part, Tensor)]:
        gap = parts.index(Ellipsis)
        parts = (*parts[:gap], *(slice(None),) * (ndim - len(parts) + 1), *parts[gap + 1 :])
    found = None
    for axis, part in enumerate(parts):
        if isinstance(part, int) and not isinstance(part, bool) and found is None:
            found = (axis, part)
        elif not (isinstance(part, slice) and part == slice(None)):
            return None
    return found


def _from_front(place: Place | None, buffer: Tensor) -> Place | None:
    return None if place is None else (place[0], place[1] % buffer.shape[place[0]])


def _shape(buffer: Tensor, axis: int) -> torch.Size:
    return torch.Size([*buffer.shape[:axis], *buffer.shape[axis + 1 :]])


Edge = tuple[Any, int]
"""A node of autograd's graph and which of its outputs."""

FACTORIES = frozenset(
    {
        *(torch.zeros, torch.ones, torch.full, torch.randn, torch.rand, torch.tensor),
        *(torch.zeros_like, torch.ones_like, torch.full_like, torch.randn_like, torch.rand_like),
        *(Tensor.new_zeros, Tensor.new_ones, Tensor.new_full, Tensor.new_tensor),
    }
)
NUMBERS = frozenset({Tensor.__bool__, Tensor.item, Tensor.__float__, Tensor.__int__, Tensor.tolist})
DATA = Tensor.data.__get__  # type: ignore[attr-defined]
APPLY = torch.autograd.Function.__dict__["apply"].__func__.__code__
WANTING = Tensor.requires_grad.__set__  # type: ignore[attr-defined]


class Stop(torch.autograd.Function):
    """Numbers that pass on, and a gradient that does not: what a detach is to the graph."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *sources: Tensor) -> Tensor:
        """The value, as a tensor of its own."""
        ctx.count = len(sources)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Nothing, for the value and for each of its sources."""
        return (None,) * (1 + ctx.count)


@dataclass(eq=False)
class Recording:
    """One pass."""

    raw: Any
    """What the module returned."""
    given: Tensor | None
    """The leaf that stands for the input, as the module takes it; None where no embedding read the token ids."""
    starts: tuple[Tensor, ...]
    """States that the module made, as leaves."""
    calls: dict[Edge, tuple[int, int]]
    """For every value that a call from Python returned: which call, and which of its results."""
    count: int
    """Calls."""
    branched: bool
    """Whether Python looked at numbers that depend on the input: another input may take another way."""
    hooked: bool
    """Whether the module hung hooks on gradients."""
    types: frozenset[torch.dtype]
    """Number types of what calls made of other numbers."""
    plain: bool
    """Whether starts and buffers were left as they are."""
    kept: Mapping[tuple[int, int], Tensor] = field(default_factory=dict)
    """Results of calls that were asked for, though the module may return nothing that was made of them."""

    @property
    def outputs(self) -> list[Tensor]:
        """Floating-point tensors that the module returned."""
        return reals(self.raw)

    @property
    def ends(self) -> list[Tensor]:
        """All that the graph leads to."""
        return [*self.outputs, *self.kept.values()]


def record(
    model: WholeModule,
    x: Tensor,
    *,
    plain: bool = False,
    answers: Sequence[Any] = (),
    keep: Set[tuple[int, int]] = frozenset(),
) -> Recording:
    """Run the model on x, as it takes it.

    Args:
        model: what is run.
        x: (batch, T, features) or (T, batch, features), or ids.
        plain: leave starts and buffers as they are.
        answers: what Python is told when it looks at numbers, instead of what they are.
        keep: results of calls, by the call and which of its results, that belong to the graph in any case.
    """
    taken = given(model.module, x, model.tables)
    mode = Recorder(taken, plain=plain, answers=answers, keep=keep)
    with stepwise(x), gradients_wanted(model.module), torch.enable_grad():
        raw = model.run(taken.taken, mode, copied=True)
    if taken.outgrown:
        return record(model, x, plain=plain, answers=answers, keep=keep)
    return Recording(
        raw,
        taken.leaf,
        tuple(mode.starts),
        mode.calls,
        mode.count,
        mode.branched,
        mode.hooked,
        frozenset(mode.types),
        plain,
        mode.kept,
    )


class Recorder(TorchFunctionMode):
    """Watches the calls of one pass."""

    def __init__(
        self, taken: Given, *, plain: bool, answers: Sequence[Any], keep: Set[tuple[int, int]] = frozenset()
    ) -> None:
        super().__init__()
        self.keep = keep
        self.kept: dict[tuple[int, int], Tensor] = {}
        self.answers = list(answers)[::-1]
        self.taken, self.plain = taken, plain
        self.starts: list[Tensor] = []
        self.calls: dict[Edge, tuple[int, int]] = {}
        self.count = 0
        self.branched = self.hooked = False
        self.types: set[torch.dtype] = set()
        self.written = Written()
        self.derived = torch.utils.weak.WeakIdKeyDictionary()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One call; within torch.func's transforms tensors cannot be marked, and are but noted."""
        kwargs = kwargs or {}
        if is_inside_function():
            return func(*args, **kwargs)
        self.count += 1
        special = SPECIAL.get(func)
        if is_transformed():
            found = func(*args, **kwargs)
        elif special is not None:
            found = special(self, func, args, kwargs)
        elif torch.is_grad_enabled():
            found = func(*args, **kwargs)
        else:
            found = self._without_gradient(func, args, kwargs)
        if func is Tensor.__setitem__:
            # It returns nothing: what it makes is the tensor as it is from now on.
            self._note(args[0], 0, args)
        elif isinstance(found, Tensor):
            self._note(found, 0, args)
        elif isinstance(found, tuple | list):
            for place, one in enumerate(found):
                if isinstance(one, Tensor):
                    self._note(one, place, args)
        return found

    def _note(self, value: Tensor, place: int, args: Any) -> None:
        value = untransformed(value)
        if value.is_floating_point() and any(isinstance(arg, Tensor) and arg.is_floating_point() for arg in args):
            self.types.add(value.dtype)
        if value.grad_fn is not None:
            self.calls.setdefault((value.grad_fn, value.output_nr), (self.count, place))
            if (self.count, place) in self.keep:
                self.kept[self.count, place] = value
        elif value.dtype == torch.bool and any(_joined(arg) or _known(self.derived, arg) for arg in args):
            self.derived[value] = True

    def _without_gradient(self, func: Any, args: Any, kwargs: Any) -> Any:
        """A call under no_grad; what it returns still knows where it came from."""
        found = func(*args, **kwargs)
        sources = [arg for arg in tree_leaves((args, kwargs)) if _joined(arg)]
        if not sources or not isinstance(found, Tensor) or any(found is arg for arg in args):
            return found
        return stopped(found, sources)

    def start(self, func: Any, args: Any, kwargs: Any) -> Any:
        """A tensor that the module makes."""
        found = func(*args, **kwargs)
        if self.plain or not torch.is_grad_enabled() or not found.is_floating_point() or found.requires_grad:
            return found
        self.starts.append(found.requires_grad_())
        return found.clone()

    def cut(self, func: Any, args: Any, kwargs: Any) -> Any:
        """A detach."""
        source = args[0]
        if not _joined(source) or not source.is_floating_point():
            return func(*args, **kwargs)
        return stopped(source.detach(), [source])

    def cut_in_place(self, func: Any, args: Any, kwargs: Any) -> Any:
        """A detach that changes the tensor itself."""
        source = args[0]
        if not _joined(source):
            return func(*args, **kwargs)
        stop = stopped(source.detach(), [source])
        func(*args, **kwargs)
        with torch.enable_grad():
            source.copy_(stop)
        return source

    def number(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Python looks at a number."""
        self.branched = self.branched or _joined(args[0]) or _known(self.derived, args[0])
        return self.answers.pop() if self.answers else func(args[0].detach(), *args[1:], **kwargs)

    def numpy(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Numbers that leave torch."""
        return func(args[0].detach(), *args[1:], **kwargs)

    def wanting(self, func: Any, args: Any, kwargs: Any) -> Any:
        """A tensor is told to want a gradient, or none: one that is joined to others here keeps what it has."""
        if args[0].is_leaf:
            return func(*args, **kwargs)
        return args[0] if func is Tensor.requires_grad_ else None

    def hook(self, func: Any, args: Any, kwargs: Any) -> Any:
        """A hook of the module's own on a gradient."""
        self.hooked = True
        return func(*args, **kwargs)

    def embed(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Ids become numbers."""
        found = func(*args, **kwargs) if torch.is_grad_enabled() else self._without_gradient(func, args, kwargs)
        return self.taken.embedded(func, args, kwargs, found)

    def write(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Buffer[key] = value."""
        if _is_view_of(args[0], *args[1:]):
            # `buffer[key] += more` writes in place, and then what is there onto itself.
            return None
        return func(*args, **kwargs) if self.plain else self.written.write(func, *args)

    def read(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Buffer[key]."""
        kept = None if self.plain else self.written.read(*args)
        return self.embed(func, args, kwargs) if kept is None else kept


SPECIAL: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys(FACTORIES, Recorder.start),
    **dict.fromkeys(NUMBERS, Recorder.number),
    Tensor.detach: Recorder.cut,
    torch.detach: Recorder.cut,
    DATA: Recorder.cut,
    Tensor.detach_: Recorder.cut_in_place,
    Tensor.numpy: Recorder.numpy,
    Tensor.register_hook: Recorder.hook,
    **dict.fromkeys((Tensor.requires_grad_, WANTING), Recorder.wanting),
    **dict.fromkeys(LOOKUPS, Recorder.embed),
    Tensor.__setitem__: Recorder.write,
    Tensor.__getitem__: Recorder.read,
}


def is_inside_function() -> bool:
    """Whether a `torch.autograd.Function` is computing: it is one operation, and may write into views on the way."""
    frame = None if torch.is_grad_enabled() else sys._getframe(1)
    while frame is not None and frame.f_code is not APPLY:
        frame = frame.f_back
    return frame is not None


def stopped(value: Tensor, sources: Sequence[Tensor]) -> Tensor:
    """The value without its gradient, joined to where it came from."""
    if not value.is_floating_point():
        return value
    with torch.enable_grad():
        found: Tensor = Stop.apply(value.detach(), *sources)  # type: ignore[no-untyped-call]
    return found


def _joined(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _is_view_of(buffer: Tensor, key: Any, value: Any) -> bool:
    """Whether a value is the very piece of a buffer that it is written to."""
    if not isinstance(value, Tensor) or not is_view(value) or value.untyped_storage() != buffer.untyped_storage():
        return False
    piece = buffer[key]
    return all(getattr(piece, name)() == getattr(value, name)() for name in ("data_ptr", "size", "stride"))


def _known(derived: Any, value: Any) -> bool:
    return isinstance(value, Tensor) and value in derived


@contextmanager
def stepwise(x: Tensor) -> Iterator[None]:
    """Kernels that hide the steps of a recurrence in one operation are left aside."""
    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        if x.dtype != torch.float64:
            with warnings.catch_warnings():
                # It warns of hardware that is not there.
                warnings.simplefilter("ignore", UserWarning)
                stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        if x.is_cuda:
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)

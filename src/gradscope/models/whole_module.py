"""Models that are run as they are: attention, transformers, and any module of a user."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence
from torch.overrides import TorchFunctionMode

from gradscope.errors import UsageError
from gradscope.isolation.caller_state import generators, own_random_numbers
from gradscope.models.output_shape import OutputShape, Roles, leaves_of, readings
from gradscope.models.token_models import TokenIds
from gradscope.models.user_modules import alike, as_before, checkpoints_kept, gradients_wanted, uncompiled
from gradscope.text import safe_text
from gradscope.torch_private import apply_to_tensors, compiled_from, tree_map_only

Module = TypeVar("Module", bound=nn.Module)

NOTHING: AbstractContextManager[Any] = nullcontext()
IN_FLOAT32 = "run in float32: the module makes float32 tensors of its own, which weights in float64 do not fit"
OWN_TYPES = "run in the number types it was made in, {}: its code does not run in others"


class WholeModule:
    """A map from a whole sequence to a whole sequence, of which nothing but its own forward pass is known."""

    def __init__(
        self,
        name: str,
        module: nn.Module,
        input_size: int,
        *,
        kind: Literal["attention", "module"] = "attention",
        weights: Callable[[Tensor], list[Tensor]] | None = None,
        time_first: bool | None = False,
        ids: TokenIds | None = None,
        key: str | None = None,
        closed: str = "",
        turns: bool = True,
        carried: Callable[[int], int | None] | None = None,
        own_types: Mapping[str, torch.dtype] | None = None,
    ) -> None:
        """Wrap `module`: (batch, T, input_size) -> (batch, T, features).

        Args:
            name: what the user called it.
            module: the map.
            input_size: features per step it takes.
            kind: `attention` when its weights can be read; `module` is looked into for recurrences.
            weights: x (batch, T, input_size) -> attention weights per layer, each (batch, heads, T, T).
            time_first: whether the module takes and returns (T, batch, features); None to find out.
            ids: what is known of them, for a module that takes token ids (batch, T) instead of features.
            key: the recurrence inside whose state is meant, where there are several.
            turns: whether an input that was not made for it may be turned to fit it.
            closed: why nothing is looked for inside, as it is said of the recurrent state; empty to look.
            carried: T -> how many numbers it takes from step T to the next, where that is known.
            own_types: number types that its parameters and buffers had before they were put into that of the run.
        """
        # What torch.compile makes of a module stands for that module.
        module = compiled_from(module)
        self.name, self.module, self.weights = name, module, weights
        self.kind: Literal["attention", "module"] = kind
        self.input_size, self.ids, self.key = input_size, ids, key
        self.time_first, self.closed, self.carried = time_first, closed, carried
        self.turned = False
        """Whether batch and time changed places because of what the module does."""
        self.guessed = False
        """Whether it would have fitted in either order."""
        if time_first is None and not turns:
            self.time_first = False
        self.own_types = {} if own_types is None else own_types
        self.runs_in: torch.dtype | None = None
        """The number type of its input, where that is not the one that was asked for."""
        self.unfit = ""
        """Why that is so, in words for the user."""
        self.tables: dict[Hashable, slice] = {}
        """Tables of embeddings that read its token ids, by what they are made of."""
        self._draws: dict[str, Any] | None = None
        self.asks = False
        """Whether its forward asks autograd for gradients of its own, and so runs only where they are wanted."""
        self.stated = time_first is not None
        """Whether it was said in which order it takes batch and time."""
        self.ambiguous: tuple[int, ...] = ()
        """The shape of an output whose axes could be several things, and it cannot be found out which."""
        self._roles: dict[tuple[int, bool], Roles] = {}
        """What the axes of an output are, once it was found out, by their number and the layout."""
        if any(map(nn.parameter.is_lazy, module.parameters())):
            self._build_lazy_parts()

    def _build_lazy_parts(self) -> None:
        """Run once on zeros, so that parts that take their sizes from their first input have weights."""
        dtype = next(p.dtype for p in self.module.parameters())
        with torch.no_grad(), own_random_numbers(0):
            self.run(torch.zeros(2, 2, self.input_size, dtype=dtype))
        self._draws = None

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs of x, (batch, T, features), differentiable, in standard form: see `output`.

        Raises:
            UsageError: the module fails, with its own words, or returns no tensor.
        """
        return self.output(self.run(self.laid_out(x)), x)

    def laid_out(self, x: Tensor) -> Tensor:
        """Batch-first values as the module has them, and back."""
        return x.transpose(0, 1) if self.time_first and x.ndim > 1 else x

    def output(self, raw: Any, x: Tensor) -> Tensor:
        """The first tensor of what the module returned for x (batch, T, ...), in standard form.

        That is (batch, T, features); (batch, features) of one answer for a whole sequence, of which a plain number
        counts as one feature; a scalar of a module that is its own loss.

        Raises:
            UsageError: there is none.
        """
        found = self.first_tensor(raw)
        return self.shape_of(found, x).standardised(found)

    def first_tensor(self, raw: Any) -> Tensor:
        """The first tensor among what the module returned, as it is; padded, where it was packed.

        Raises:
            UsageError: there is none.
        """
        if isinstance(raw, tuple | list) and raw and isinstance(raw[0], PackedSequence):
            raw = raw[0]
        if isinstance(raw, PackedSequence):
            return pad_packed_sequence(raw, batch_first=not self.time_first)[0]
        found = next((value for value in leaves_of(raw) if isinstance(value, Tensor)), None)
        if found is None:
            raise UsageError(f"{safe_text(self.name)} returns {type(raw).__name__} without a tensor; return one first")
        return found

    def fits(self, raw: Any, x: Tensor, *, time_first: bool) -> bool:
        """Whether what the module returned for x (batch, T, ...), laid out so, has the sequences where they belong."""
        y = self.first_tensor(raw)
        return not y.ndim or bool(readings(y.shape, *x.shape[:2], time_first=time_first))

    def turn(self, *, guessed: bool) -> None:
        """Take it to take time first from now on; that is a guess where it would fit the other way as well."""
        self.time_first = self.turned = True
        self.guessed = guessed and not hasattr(self.module, "batch_first")

    def shape_of(self, y: Tensor, x: Tensor) -> OutputShape:
        """What the axes are of a tensor that the module returned for x (batch, T, ...)."""
        possible = readings(y.shape, *x.shape[:2], time_first=bool(self.time_first))
        if not possible:
            return OutputShape.of(y.shape, x.shape[1], (None, None))
        if len(possible) == 1 or self.kind != "module":
            return OutputShape.of(y.shape, x.shape[1], possible[0])
        key = (y.ndim, bool(self.time_first))
        if self._roles.get(key) not in possible:
            self._roles[key] = self._found_out(y, x, possible)
        return OutputShape.of(y.shape, x.shape[1], self._roles[key])

    def _found_out(self, y: Tensor, x: Tensor, possible: list[Roles]) -> Roles:
        """Which of the `possible` readings is right: that whose axes change with the number of sequences and steps.

        Where the module takes no other number of steps, the first output along the axis of steps hears the first input
        alone.
        """
        sizes = {*y.shape, *x.shape[:2], x.shape[1] + 1, x.shape[1] - 1}
        few = x[[b % len(x) for b in range(next(n for n in range(2, len(sizes) + 3) if n not in sizes))]]
        # Of two steps one would be left, which code that squeezes takes for none.
        other = [torch.cat([one[:, :1], one], 1) if x.shape[1] == 2 else one[:, 1:] for one in (few, x)]
        steps_told = unheard = False
        for changed in (*other, few):
            short = self._shape_for(changed)
            if short is None or len(short) != y.ndim:
                continue
            fitting = [
                roles
                for roles in possible
                if all(axis is None or short[axis] == n for axis, n in zip(roles, changed.shape, strict=False))
            ]
            if not fitting:
                continue
            possible = fitting
            if changed.shape[1] != x.shape[1]:
                steps_told = True
                possible = [roles for roles in fitting if roles[1] is not None] or fitting
                if len(changed) != len(x):
                    break
        timed = [roles for roles in possible if roles[1] is not None]
        if not steps_told and (y.ndim == 2 or len(timed) > 1):
            timed = [roles for roles in timed if self._heard_in_order(x, roles)]
            possible = timed or possible
            unheard = not timed
        if unheard or len({roles[0] for roles in possible}) > 1:
            self.ambiguous = tuple(y.shape)
        return possible[0]

    def _shape_for(self, x: Tensor) -> tuple[int, ...] | None:
        """The shape of what the module returns for x (batch, T, ...); None where it does not take that."""
        try:
            with torch.no_grad():
                return tuple(self.first_tensor(self.run(self.laid_out(x))).shape)
        except UsageError:
            return None

    def _heard_in_order(self, x: Tensor, roles: Roles) -> bool:
        """Whether the first output along an axis hears the first step alone, and the last hears others as well."""
        if not x.is_floating_point() or roles[1] is None:
            return False
        leaf = x.detach().clone().requires_grad_()
        with torch.enable_grad():
            y = self.first_tensor(self.run(self.laid_out(leaf)))
        if not y.requires_grad:
            return False
        heard = []
        for step in (0, -1):
            (found,) = torch.autograd.grad(y.select(roles[1], step).sum(), leaf, retain_graph=True, allow_unused=True)
            later = None if found is None else found[:, 1:]
            heard.append(later is not None and bool((later != 0).any()))
        return heard == [False, True]

    def parameters(self) -> dict[str, Tensor]:
        """All weights by name."""
        return dict(self.module.named_parameters())

    def run(self, x: Tensor, watch: AbstractContextManager[Any] = NOTHING, *, copied: bool = False) -> Any:
        """The module's own call on x as it takes it, and whatever it returns: the same whenever it is run.

        The module gets a copy, joined to x, which it may write into.

        Args:
            x: the input.
            watch: entered for the call alone.
            copied: whether x is such a copy already.

        Raises:
            UsageError: it fails, with its own words.
        """
        if self._draws is None:
            self._draws = generators()
        taken = x if copied else x.clone()
        dtype = next((p.dtype for p in self.module.parameters()), x.dtype)
        try:
            with (
                default_dtype(dtype),
                as_before(self.module),
                own_random_numbers(states=self._draws),
                uncompiled(),
                checkpoints_kept(),
                graphs_wanted(self.module) if self.asks else NOTHING,
                Leaving(),
                watch,
            ):
                found = self.module(taken)
        except UsageError:
            raise
        except Exception as error:
            if not self.asks and watch is NOTHING and "require grad" in str(error) and self._runs_with_graphs(x):
                return self.run(x)
            if watch is not NOTHING and self._runs(x):
                # It fails only while it is watched, so the fault is not the module's.
                raise
            what = f"{type(error).__name__}: {safe_text(error)}"
            sized = x.is_floating_point() and any(word in str(error) for word in ("shape", "size", "channels"))
            remedy = "; --input-size N says how many features it takes" if sized else ""
            raise UsageError(f"{safe_text(self.name)} fails on x {tuple(x.shape)}: {what}{remedy}") from error
        if self.asks and not torch.is_grad_enabled():
            return tree_map_only(Tensor, Tensor.detach, found)
        return found

    def fitted(self, x: Tensor) -> Tensor:
        """X (batch, T, features) in the type that the module runs in; ids (batch, T) as they are.

        A module whose code makes or mixes number types of its own, which one type for all weights does not fit, is put
        into float32, or else into the types that it was made in.
        """
        if self.kind == "module" and self.runs_in is None and self._refuses_types(x):
            self._refit(x)
        return self._typed(x)

    def _typed(self, x: Tensor) -> Tensor:
        return x.to(self.runs_in) if self.runs_in is not None and x.is_floating_point() else x

    def _refit(self, x: Tensor) -> None:
        """Put the module into the first types in which it runs; without any it stays as it is."""
        # What was rounded to float32 once is not put into float64 again: every type is made of the first numbers.
        before = {name: value.detach().clone() for name, value in _held(self.module)}
        own = list(dict.fromkeys(self.own_types.values()))
        single: Mapping[str, torch.dtype] = dict.fromkeys(before, torch.float32)
        mixed = " and ".join(str(kind)[6:] for kind in own)
        tried = [(single, torch.float32, IN_FLOAT32)]
        tried += [(self.own_types, kind, OWN_TYPES.format(mixed)) for kind in dict.fromkeys((torch.float32, *own))]
        for types, self.runs_in, self.unfit in tried:
            _put(self.module, before, types)
            if self._refusal(self._typed(x)) is None:
                return
        _put(self.module, before, {})
        self.runs_in, self.unfit = None, ""

    def _refuses_types(self, x: Tensor) -> bool:
        """Whether the module fails since torch does not compute with two number types at once."""
        words = str(getattr(self._refusal(x), "__cause__", ""))
        return "indices" not in words and any(
            word in words for word in ("dtype", "scalar type", "Float and Double", "Double and Float")
        )

    def _refusal(self, x: Tensor) -> UsageError | None:
        """Why the module does not take the first sequence, if it does not."""
        try:
            with torch.no_grad():
                self.run(self.laid_out(x[:1]))
        except UsageError as error:
            return error
        return None

    def draws(self, x: Tensor) -> bool:
        """Whether what it returns for x, laid out, depends on random numbers that it draws, in evaluation mode too."""
        before, self._draws = self._draws, None
        try:
            with torch.no_grad(), own_random_numbers(seed=1):
                other = self.run(x)
        finally:
            self._draws = before
        with torch.no_grad():
            return not alike(self.run(x), other)

    def _runs_with_graphs(self, x: Tensor) -> bool:
        """Whether the module takes x, laid out, where gradients are wanted; it is remembered."""
        self.asks = True
        self.asks = self._runs(x)
        return self.asks

    def _runs(self, x: Tensor) -> bool:
        """Whether the module takes x, laid out, when nobody watches."""
        try:
            with torch.no_grad():
                self.run(x.detach())
        except UsageError:
            return False
        return True


def applied(module: Module, change: Callable[[Tensor], Tensor]) -> Module:
    """The module itself, with a change made to every parameter and buffer."""
    with warnings.catch_warnings():
        # Of parameters of a program that are no leaves any more, torch asks for the gradient all the same.
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf", UserWarning)
        return apply_to_tensors(module, change)


def types_of(module: nn.Module) -> dict[str, torch.dtype]:
    """Number types of parameters and buffers, by name."""
    return {name: value.dtype for name, value in _held(module) if value.is_floating_point()}


def _held(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _put(module: nn.Module, values: Mapping[str, Tensor], types: Mapping[str, torch.dtype]) -> None:
    """Give a module these parameters and buffers, by name, in other number types where some are given."""
    names = {id(value): name for name, value in _held(module)}

    def told(value: Tensor) -> Tensor:
        name = names.get(id(value))
        if name is None or not value.is_floating_point():
            return value
        return values[name].to(types.get(name, values[name].dtype))

    applied(module, told)


class Leaving(TorchFunctionMode):
    """Lets numbers leave torch for numpy as they do in training, where no input wants a gradient."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One call."""
        if func in (Tensor.numpy, Tensor.__array__):
            args = (args[0].detach(), *args[1:])
        return func(*args, **(kwargs or {}))


@contextmanager
def graphs_wanted(module: nn.Module) -> Iterator[None]:
    """Gradients for a forward that asks for them; the graph holds copies, so that its results live as long as else."""
    apart = torch.autograd.graph.saved_tensors_hooks(Tensor.detach, lambda saved: saved)
    with gradients_wanted(module), torch.enable_grad(), apart:
        yield


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """States that a module makes with torch.zeros fit its weights, whatever type the run has."""
    before = torch.get_default_dtype()
    if dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)

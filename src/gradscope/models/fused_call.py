"""One call of a torch.nn recurrence inside a user's module: what went in, what came out, its cells in plain operations.

What a recurrence returns is replaced by leaves of equal value, so that a gradient of the loss with respect to them is
what the rest of the module asks of each step, and nothing that came through the recurrence itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from gradscope.errors import UsageError
from gradscope.models.cell import Cell
from gradscope.models.gru import GRUCell
from gradscope.models.lstm import LSTMCell, ProjectedLSTMCell
from gradscope.models.rnn import RNNCell
from gradscope.text import safe_text


def gradients(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """Gradients of sum <cotangent, output> with respect to `inputs`, None for what is not joined; the graph stays.

    Raises:
        UsageError: torch cannot differentiate the module, with its own words.
    """
    try:
        return torch.autograd.grad(outputs, inputs, cotangents, retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        what = safe_text(str(error).partition("\n")[0], 160)
        raise UsageError(f"torch cannot differentiate the module: {what}; does its loss.backward() work?") from error


@dataclass(frozen=True, eq=False)
class Spread:
    """Gradients by step: of the output, (T, batch, features), and of the last state of every unit, (batch, size)."""

    output: Tensor | None
    ends: tuple[Tensor | None, ...]


@dataclass(frozen=True, eq=False)
class RecurrenceCall:
    """One call, time-major; a unit is one layer in one direction."""

    x: Tensor
    """What it read, (T, batch, features), joined to the module's graph."""
    start: tuple[Tensor, ...]
    """The state it was given, by unit, (batch, size), joined to the graph; () for none, which means zeros."""
    output: Tensor | None
    """What it returned by step, (T, batch, features), as numbers; None for a cell, which returns its state alone."""
    ends: tuple[Tensor, ...]
    """The state it returned, by unit, as numbers."""
    lengths: Tensor | None
    """Steps of every sequence, (batch), where they differ."""
    leaves: tuple[Tensor, ...]
    spread: Callable[[Sequence[Tensor | None]], Spread]
    """Sorts gradients of the leaves by step and unit."""
    given: tuple[Tensor, ...]
    """The state it was given, as its arguments were (h, c), joined to the graph."""
    left: tuple[Tensor, ...]
    """The leaves that stand for the state it returned, in the same form."""
    detached: bool
    """Whether the state it was given wants no gradient."""


def opened(value: Tensor) -> tuple[Tensor, Tensor]:
    """A leaf of the same numbers, and what goes on in its place: a copy, which the module may write into."""
    leaf = value.detach().clone().requires_grad_()
    return leaf, leaf.clone()


def parts_of(state: Any) -> tuple[Tensor, ...]:
    """(h) or (h, c), as they are now, whatever is written into them later."""
    given = () if state is None else (state,) if isinstance(state, Tensor) else tuple(state)
    return tuple(part.clone() for part in given)


def storages(values: Iterable[Tensor]) -> frozenset[int]:
    """Where tensors keep their numbers: the same for a tensor, its views, and what detach makes of it."""
    return frozenset(value.untyped_storage().data_ptr() for value in values if value.numel())


def steps_of(value: Tensor | PackedSequence, batch_first: bool) -> tuple[Tensor, Tensor | None]:
    """(T, batch, features) of what a module of torch.nn takes, and the lengths where sequences were packed."""
    if isinstance(value, PackedSequence):
        padded, lengths = pad_packed_sequence(value)
        return padded, None if bool((lengths == len(padded)).all()) else lengths
    if value.ndim == 2:
        return value[:, None], None
    return (value.transpose(0, 1) if batch_first else value), None


def repacked(data: Tensor, like: PackedSequence) -> PackedSequence:
    """Other numbers in the same packing."""
    return PackedSequence(data, like.batch_sizes, like.sorted_indices, like.unsorted_indices)


def argument(args: tuple[Any, ...], kwargs: dict[str, Any], place: int, name: str) -> Any:
    """An argument by place or name; None when it was not given."""
    return args[place] if len(args) > place else kwargs.get(name)


def zeros_or(value: Tensor | None, like: Tensor) -> Tensor:
    """A gradient, zero where there is none."""
    return torch.zeros_like(like) if value is None else value


def handed_on(before: RecurrenceCall, after: RecurrenceCall) -> bool:
    """Whether `after` was given the very state that `before` returned.

    All of its numbers must be the same, part by part (h, c), and its gradient must come back either whole or not at
    all (a detach): one that is scaled, clipped or stopped in some of the parts is no longer that of the recurrence.
    """
    if before.lengths is not None or after.lengths is not None or len(before.left) != len(after.given):
        return False
    if not all(_equal(a, b) for a, b in zip(before.left, after.given, strict=True)):
        return False
    return after.detached or _whole(before.left, after.given)


def _equal(a: Tensor, b: Tensor) -> bool:
    """NaN equals NaN here: a recurrence that breaks is still one."""
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


def _whole(left: tuple[Tensor, ...], given: tuple[Tensor, ...]) -> bool:
    """Whether d(given)/d(left) is the identity, as far as a gradient of ones can tell."""
    if not all(part.requires_grad for part in given):
        return False
    ones = [torch.ones_like(part) for part in given]
    found = gradients(given, left, ones)
    return all(g is not None and torch.equal(g, one) for g, one in zip(found, ones, strict=True))


KNOWN = (nn.RNN, nn.GRU, nn.LSTM, nn.RNNCell, nn.GRUCell, nn.LSTMCell)
FORWARDS = frozenset(kind.forward for kind in KNOWN)

Levels = tuple[tuple[Cell, ...], ...]
"""Cells by layer, bottom first, and direction."""


def is_known(module: nn.Module) -> bool:
    """Whether it is a recurrence of torch.nn and runs as one: a subclass with a forward of its own is the user's."""
    return isinstance(module, KNOWN) and type(module).forward in FORWARDS and "forward" not in vars(module)


def recurrent_parts(module: nn.Module, read: Callable[[nn.Module], bool]) -> dict[str, str]:
    """Recurrences of torch.nn inside a module that are `read`, by dotted name: the class of torch.nn that each is."""
    return {
        name: next(kind.__name__ for kind in KNOWN if isinstance(part, kind))
        for name, part in module.named_modules()
        if is_known(part) and read(part)
    }


def cells_of(module: nn.RNNBase | nn.RNNCellBase) -> Levels:
    """The module's own weights as cells: `l0`, or `l0.forward` and `l0.reverse`."""
    if isinstance(module, nn.RNNCellBase):
        return ((_cell(module, "l0", ""),),)
    if not module.bidirectional:
        return tuple((_cell(module, f"l{index}", f"_l{index}"),) for index in range(module.num_layers))
    ways = (("forward", ""), ("reverse", "_reverse"))
    return tuple(
        tuple(_cell(module, f"l{index}.{way}", f"_l{index}{suffix}") for way, suffix in ways)
        for index in range(module.num_layers)
    )


def _cell(module: nn.RNNBase | nn.RNNCellBase, name: str, suffix: str) -> Cell:
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    given = {kind: getattr(module, kind + suffix, None) for kind in kinds}
    weights = {kind: value.detach().clone() for kind, value in given.items() if value is not None}
    if isinstance(module, nn.LSTM | nn.LSTMCell):
        return ProjectedLSTMCell(name, weights) if "weight_hr" in weights else LSTMCell(name, weights)
    if isinstance(module, nn.GRU | nn.GRUCell):
        return GRUCell(name, weights)
    return RNNCell(name, weights, str(module.nonlinearity))


def read_fused(
    module: nn.RNNBase, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
) -> tuple[Any, RecurrenceCall]:
    """A call of nn.RNN, GRU or LSTM: what to return in place of `output`, and the reading."""
    given, hx = argument(args, kwargs, 0, "input"), argument(args, kwargs, 1, "hx")
    x, lengths = steps_of(given, module.batch_first)
    y, state = output
    packed = isinstance(y, PackedSequence)
    own, stand_in = opened(y.data if packed else y)
    ends, new_state = zip(*(opened(part) for part in parts_of(state)), strict=True)
    before = parts_of(hx)
    units = [_units(part) for part in ends]

    def spread(gradients: Sequence[Tensor | None]) -> Spread:
        of_y, *of_ends = gradients
        seen = None if of_y is None else steps_of(repacked(of_y, y) if packed else of_y, module.batch_first)[0]
        if all(gradient is None for gradient in of_ends):
            return Spread(seen, (None,) * len(units[0]))
        filled = [_units(zeros_or(g, end)) for g, end in zip(of_ends, ends, strict=True)]
        return Spread(seen, _joined(filled))

    reading = RecurrenceCall(
        x=x.clone(),
        start=_joined([_units(part) for part in before]),
        output=steps_of(repacked(own, y) if packed else own, module.batch_first)[0].detach(),
        ends=tuple(end.detach() for end in _joined(units)),
        lengths=lengths,
        leaves=(own, *ends),
        spread=spread,
        given=before,
        left=ends,
        detached=_detached(before),
    )
    return (
        repacked(stand_in, y) if packed else stand_in,
        new_state[0] if isinstance(state, Tensor) else new_state,
    ), reading


def read_cell(
    module: nn.RNNCellBase, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
) -> tuple[Any, RecurrenceCall]:
    """A call of nn.RNNCell, GRUCell or LSTMCell."""
    given, hx = argument(args, kwargs, 0, "input"), argument(args, kwargs, 1, "hx")
    parts, stand_ins = zip(*(opened(part) for part in parts_of(output)), strict=True)
    before, rows = parts_of(hx), [_row(part) for part in parts]

    def spread(gradients: Sequence[Tensor | None]) -> Spread:
        if all(gradient is None for gradient in gradients):
            return Spread(None, (None,))
        filled = [_row(zeros_or(g, part)) for g, part in zip(gradients, parts, strict=True)]
        return Spread(None, (torch.cat(filled, -1),))

    reading = RecurrenceCall(
        x=_row(given.clone())[None],
        start=(torch.cat([_row(part) for part in before], -1),) if before else (),
        output=None,
        ends=(torch.cat(rows, -1).detach(),),
        lengths=None,
        leaves=parts,
        spread=spread,
        given=before,
        left=parts,
        detached=_detached(before),
    )
    return stand_ins[0] if isinstance(output, Tensor) else stand_ins, reading


def _units(part: Tensor) -> tuple[Tensor, ...]:
    """(layers x directions, batch, size) as one (batch, size) a unit; without a batch, one sequence."""
    return (part if part.ndim == 3 else part[:, None]).unbind(0)


def _joined(parts: Sequence[Sequence[Tensor]]) -> tuple[Tensor, ...]:
    """H and c of every unit side by side."""
    return tuple(torch.cat(unit, -1) for unit in zip(*parts, strict=True))


def _row(value: Tensor) -> Tensor:
    return value if value.ndim == 2 else value[None]


def _detached(state: Sequence[Tensor]) -> bool:
    return bool(state) and not any(part.requires_grad for part in state)

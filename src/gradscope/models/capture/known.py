"""The recurrences of torch.nn: their cells in plain operations, and how a call of one is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gradscope.models.capture.reading import (
    Reading,
    Spread,
    argument,
    opened,
    parts_of,
    repacked,
    steps_of,
    zeros_or,
)
from gradscope.models.cell import Cell
from gradscope.models.gru import GRUCell
from gradscope.models.lstm import LSTMCell
from gradscope.models.lstm_projected import ProjectedLSTMCell
from gradscope.models.rnn import RNNCell

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


def read_fused(module: nn.RNNBase, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> tuple[Any, Reading]:
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

    reading = Reading(
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
) -> tuple[Any, Reading]:
    """A call of nn.RNNCell, GRUCell or LSTMCell."""
    given, hx = argument(args, kwargs, 0, "input"), argument(args, kwargs, 1, "hx")
    parts, stand_ins = zip(*(opened(part) for part in parts_of(output)), strict=True)
    before, rows = parts_of(hx), [_row(part) for part in parts]

    def spread(gradients: Sequence[Tensor | None]) -> Spread:
        if all(gradient is None for gradient in gradients):
            return Spread(None, (None,))
        filled = [_row(zeros_or(g, part)) for g, part in zip(gradients, parts, strict=True)]
        return Spread(None, (torch.cat(filled, -1),))

    reading = Reading(
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

"""The recurrences of torch.nn: their cells in plain operations, and how a call of one is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gradscope.models.capture.reading import (
    Reading,
    Spread,
    argument,
    leaf,
    repacked,
    steps_of,
    storages,
    zeros_or,
)
from gradscope.models.cell import Cell
from gradscope.models.gru import GRUCell
from gradscope.models.lstm import LSTMCell
from gradscope.models.lstm_projected import ProjectedLSTMCell
from gradscope.models.rnn import RNNCell

KNOWN = (nn.RNNBase, nn.RNNCellBase)

Levels = tuple[tuple[Cell, ...], ...]
"""Cells by layer, bottom first, and direction."""


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
    own = leaf(y.data if packed else y)
    ends = tuple(leaf(part) for part in _parts(state))
    units = [_units(part) for part in ends]

    def spread(gradients: Sequence[Tensor | None]) -> Spread:
        of_y, *of_ends = gradients
        seen = None if of_y is None else steps_of(repacked(of_y, y) if packed else of_y, module.batch_first)[0]
        if all(gradient is None for gradient in of_ends):
            return Spread(seen, (None,) * len(units[0]))
        filled = [_units(zeros_or(g, end)) for g, end in zip(of_ends, ends, strict=True)]
        return Spread(seen, _joined(filled))

    reading = Reading(
        x=x,
        start=() if hx is None else _joined([_units(part) for part in _parts(hx)]),
        output=steps_of(repacked(own, y) if packed else own, module.batch_first)[0].detach(),
        ends=tuple(end.detach() for end in _joined(units)),
        lengths=lengths,
        leaves=(own, *ends),
        spread=spread,
        given=storages(_parts(hx)),
        left=storages(ends),
        detached=_detached(hx),
    )
    new_state = ends[0] if isinstance(state, Tensor) else tuple(ends)
    return (repacked(own, y) if packed else own, new_state), reading


def read_cell(
    module: nn.RNNCellBase, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
) -> tuple[Any, Reading]:
    """A call of nn.RNNCell, GRUCell or LSTMCell."""
    given, hx = argument(args, kwargs, 0, "input"), argument(args, kwargs, 1, "hx")
    parts = tuple(leaf(part) for part in _parts(output))
    rows = [_row(part) for part in parts]

    def spread(gradients: Sequence[Tensor | None]) -> Spread:
        if all(gradient is None for gradient in gradients):
            return Spread(None, (None,))
        filled = [_row(zeros_or(g, part)) for g, part in zip(gradients, parts, strict=True)]
        return Spread(None, (torch.cat(filled, -1),))

    reading = Reading(
        x=_row(given)[None],
        start=() if hx is None else (torch.cat([_row(part) for part in _parts(hx)], -1),),
        output=None,
        ends=(torch.cat(rows, -1).detach(),),
        lengths=None,
        leaves=parts,
        spread=spread,
        given=storages(_parts(hx)),
        left=storages(parts),
        detached=_detached(hx),
    )
    return parts[0] if isinstance(output, Tensor) else parts, reading


def _parts(state: Any) -> tuple[Tensor, ...]:
    """(h) or (h, c)."""
    return () if state is None else (state,) if isinstance(state, Tensor) else tuple(state)


def _units(part: Tensor) -> tuple[Tensor, ...]:
    """(layers x directions, batch, size) as one (batch, size) a unit; without a batch, one sequence."""
    return (part if part.ndim == 3 else part[:, None]).unbind(0)


def _joined(parts: Sequence[Sequence[Tensor]]) -> tuple[Tensor, ...]:
    """H and c of every unit side by side."""
    return tuple(torch.cat(unit, -1) for unit in zip(*parts, strict=True))


def _row(value: Tensor) -> Tensor:
    return value if value.ndim == 2 else value[None]


def _detached(hx: Any) -> bool:
    return hx is not None and not any(part.requires_grad for part in _parts(hx))

"""Stacks of Elman layers with each step exchanged for another."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from gradscope.models.cell import Cell
from gradscope.models.custom import CustomCell
from gradscope.models.family import Model
from gradscope.models.recurrent import Recurrent
from gradscope.models.rnn import RNNCell


def exchanged(model: Model, step: Callable[[dict[str, Tensor], str], nn.Module]) -> Recurrent | None:
    """A copy whose layers take `step(weights, nonlinearity)`; None where a layer is no Elman layer."""
    if not isinstance(model, Recurrent) or not all(isinstance(cell, RNNCell) for cell in model.cells):
        return None
    cells: list[Cell] = []
    for cell in model.cells:
        assert isinstance(cell, RNNCell)
        start = cell.initial_state(1)[0]
        cells.append(CustomCell(cell.name, step(cell.parameters, cell.nonlinearity), start, cell.input_size))
    return Recurrent(model.name, cells, start=model.start, cuts=model.cuts)

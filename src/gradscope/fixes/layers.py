"""The layers of torch.nn in a model, wherever they stand, and copies of the model with their weights changed."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gradscope.fixes.found import found_in_step, found_layers
from gradscope.fixes.layer import Change, Kind, Layer
from gradscope.loading.code.step_function import StateOf
from gradscope.models.cell import Cell
from gradscope.models.copied import copied
from gradscope.models.custom import CustomCell
from gradscope.models.direct import Direct
from gradscope.models.family import Model
from gradscope.models.gru import GRUCell
from gradscope.models.lstm import LSTMCell
from gradscope.models.recurrent import Recurrent
from gradscope.models.rnn import RNNCell

KINDS: dict[type, Kind] = {RNNCell: "rnn", LSTMCell: "lstm", GRUCell: "gru"}
MODULES: tuple[tuple[type[nn.Module], Kind], ...] = (
    (nn.RNN, "rnn"),
    (nn.LSTM, "lstm"),
    (nn.GRU, "gru"),
    (nn.RNNCell, "rnn"),
    (nn.LSTMCell, "lstm"),
    (nn.GRUCell, "gru"),
)


class Changed(NamedTuple):
    """A copy of a model with other weights."""

    model: Model
    weights: dict[str, Tensor]
    has_layers: bool = True
    """Whether layers of torch.nn were changed."""
    lines: tuple[str, ...] = ()
    """Lines that do the same to what was found in the user's own code, a module called `model`."""

    def code(self, body: str) -> str:
        """Lines of PyTorch that do the same.

        Args:
            body: what is done to `weights`, one layer's dictionary; `H` is its hidden size.
        """
        parts = [each_layer(body)] if self.has_layers else []
        if self.lines:
            own = "\n".join(f"    {line}" for line in self.lines)
            parts.append(f"import torch\n\n# model: your module\nwith torch.no_grad():\n{own}\n")
        return "\n".join(parts)


def changed(model: Model, change: Change, x: Tensor | None = None) -> Changed | None:
    """A copy of the model with `change` made to each of its layers, and the new weights; None where it made none.

    Args:
        model: the model.
        change: what is done.
        x: its input, (batch, T, features), by which recurrences of the user's own code are found; None leaves them.
    """
    if not isinstance(model, Recurrent):
        return _changed_module(model, change, x)
    first = model.cells[0]
    if len(model.cells) == 1 and isinstance(first, CustomCell) and x is not None:
        return _changed_step(model, first, change)
    return _changed_stack(model, change)


def _changed_step(model: Recurrent, cell: CustomCell, change: Change) -> Changed | None:
    """A user's own step that is a module."""
    if cell.module is None:
        return None
    own = copy.copy(cell)
    own.module = own.function = copied(cell.module)
    theirs = own.module.inner if isinstance(own.module, StateOf) else own.module
    with torch.no_grad():
        written = [layer for layer in found_in_step(cell, theirs) if change(layer)]
    if not written:
        return None
    own.parameters = {key: value.detach() for key, value in own.module.named_parameters()}
    weights = {key: value.detach() for key, value in theirs.state_dict().items()}
    stack = Recurrent(model.name, [own], start=model.start, cuts=model.cuts)
    return Changed(stack, weights, False, tuple(line for layer in written for line in layer.lines))


def _changed_stack(model: Recurrent, change: Change) -> Changed | None:
    cells: list[Cell] = []
    made = False
    weights: dict[str, Tensor] = {}
    for index, cell in enumerate(model.cells):
        kind, own = KINDS.get(type(cell)), copy.copy(cell)
        if kind is not None:
            layer = Layer(kind, _cloned(cell.parameters), cell.output_size, nonlinearity=_phi(cell))
            made |= change(layer)
            own.parameters = layer.weights
            weights |= {f"{key}_l{index}": value for key, value in layer.weights.items()}
        cells.append(own)
    return Changed(Recurrent(model.name, cells, start=model.start, cuts=model.cuts), weights) if made else None


def _changed_module(model: Direct, change: Change, x: Tensor | None) -> Changed | None:
    own, made = copied(model.module), False
    with torch.no_grad():
        for path, part in own.named_modules():
            kind = next((kind for known, kind in MODULES if isinstance(part, known)), None)
            if kind is None or int(getattr(part, "proj_size", False)):
                continue
            assert isinstance(part, nn.RNNBase | nn.RNNCellBase)
            for suffix in _suffixes(part):
                parameters = {key: getattr(part, key + suffix) for key in _names(part)}
                backwards = suffix.endswith("_reverse")
                layer = Layer(kind, _cloned(parameters), part.hidden_size, path, _phi(part), backwards)
                made |= change(layer)
                for key, value in layer.weights.items():
                    parameters[key].copy_(value)
        written = [] if x is None else [layer for layer in found_layers(model, own, x) if change(layer)]
    if not made and not written:
        return None
    found = copy.copy(model)
    found.module, found.weights = own, None
    lines = tuple(line for layer in written for line in layer.lines)
    return Changed(found, {key: value.detach() for key, value in own.state_dict().items()}, made, lines)


def _cloned(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in parameters.items()}


def _phi(layer: Cell | nn.Module) -> str:
    return str(getattr(layer, "nonlinearity", "tanh"))


def _suffixes(part: nn.RNNBase | nn.RNNCellBase) -> Iterator[str]:
    if not isinstance(part, nn.RNNBase):
        yield ""
        return
    for index in range(part.num_layers):
        yield from [f"_l{index}", *([f"_l{index}_reverse"] if part.bidirectional else [])]


def _names(part: nn.RNNBase | nn.RNNCellBase) -> tuple[str, ...]:
    return ("weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if part.bias else ()))


def each_layer(lines: str) -> str:
    """Lines of PyTorch that do something to `weights`, the dictionary of one layer and direction of a module `rnn`."""
    body = "\n".join(f"        {line}" if line else "" for line in lines.strip("\n").split("\n"))
    return (
        "import torch\n\n"
        "# rnn: your nn.RNN, nn.LSTM, nn.GRU, or one of their cells\n"
        "H = rnn.hidden_size\n"
        'ways = ["", "_reverse"] if getattr(rnn, "bidirectional", False) else [""]\n'
        'ends = [f"_l{layer}{way}" for layer in range(getattr(rnn, "num_layers", 0)) for way in ways] or [""]\n'
        "with torch.no_grad():\n"
        "    for end in ends:\n"
        "        named = [(name, value) for name, value in rnn.named_parameters() if name.endswith(end)]\n"
        "        weights = {name.removesuffix(end): value for name, value in named}\n"
        f"{body}\n"
    )

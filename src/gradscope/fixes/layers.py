"""The layers of torch.nn in a model, wherever they stand, and copies of the model with their weights changed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from gradscope.models.cell import Cell
from gradscope.models.direct import Direct
from gradscope.models.family import Model
from gradscope.models.gru import GRUCell
from gradscope.models.lstm import LSTMCell
from gradscope.models.recurrent import Recurrent
from gradscope.models.rnn import RNNCell

Kind = Literal["rnn", "lstm", "gru"]
KINDS: dict[type, Kind] = {RNNCell: "rnn", LSTMCell: "lstm", GRUCell: "gru"}
MODULES: tuple[tuple[type[nn.Module], Kind], ...] = (
    (nn.RNN, "rnn"),
    (nn.LSTM, "lstm"),
    (nn.GRU, "gru"),
    (nn.RNNCell, "rnn"),
    (nn.LSTMCell, "lstm"),
    (nn.GRUCell, "gru"),
)


@dataclass(frozen=True)
class Layer:
    """One layer, one direction."""

    kind: Kind
    weights: dict[str, Tensor]
    """Copies, to be written into: `weight_ih`, `weight_hh`, and `bias_ih`, `bias_hh` where it has biases."""
    hidden: int
    part: str = ""
    """The submodule that it is a layer of; none of a stack."""
    nonlinearity: str = "tanh"
    """Of an Elman layer."""
    backwards: bool = False
    """Whether it goes through the sequence from its end."""

    @property
    def has_bias(self) -> bool:
        """Whether it has any."""
        return "bias_ih" in self.weights

    def set_bias(self, gate: int, values: Tensor | float) -> None:
        """B_ih + b_hh of a gate, all of it in b_ih."""
        at = slice(gate * self.hidden, (gate + 1) * self.hidden)
        self.weights["bias_ih"][at] = values
        self.weights["bias_hh"][at] = 0.0


Change = Callable[[Layer], bool]
"""Writes into a layer's weights; False where it has nothing to do there."""


def changed(model: Model, change: Change) -> tuple[Model, dict[str, Tensor]] | None:
    """A copy of the model with `change` made to each of its layers, and the new weights; None where it made none."""
    if isinstance(model, Recurrent):
        return _changed_stack(model, change)
    return _changed_module(model, change)


def _changed_stack(model: Recurrent, change: Change) -> tuple[Model, dict[str, Tensor]] | None:
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
    return (Recurrent(model.name, cells, start=model.start, cuts=model.cuts), weights) if made else None


def _changed_module(model: Direct, change: Change) -> tuple[Model, dict[str, Tensor]] | None:
    own, made = copy.deepcopy(model.module), False
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
    if not made:
        return None
    found = copy.copy(model)
    found.module, found.weights = own, None
    return found, {key: value.detach() for key, value in own.state_dict().items()}


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
    """Lines of PyTorch that do something to `weights`, one layer's dictionary, for each layer of a module `rnn`."""
    body = "\n".join(f"        {line}" if line else "" for line in lines.strip("\n").split("\n"))
    return (
        "import torch\n\n"
        "# rnn: your nn.RNN, nn.LSTM or nn.GRU\n"
        "H = rnn.hidden_size\n"
        "with torch.no_grad():\n"
        "    for layer in range(rnn.num_layers):\n"
        '        weights = {name.removesuffix(f"_l{layer}"): value for name, value in rnn.named_parameters()\n'
        '                   if name.endswith(f"_l{layer}")}\n'
        f"{body}\n"
    )

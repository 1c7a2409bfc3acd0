"""The recurrent layers of a copy of the model, changed one by one."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gradscope.fixes.found_layers import found_in_step, found_layers
from gradscope.fixes.remedy import Change, Layer, LayerKind
from gradscope.loading.step_function import StateOf
from gradscope.models.cell import Cell
from gradscope.models.family import Model
from gradscope.models.gru import GRUCell
from gradscope.models.lstm import LSTMCell
from gradscope.models.rnn import RNNCell
from gradscope.models.stack import Recurrent
from gradscope.models.user_modules import copied
from gradscope.models.user_step import CustomCell
from gradscope.models.whole_module import WholeModule

KINDS: dict[type, LayerKind] = {RNNCell: "rnn", LSTMCell: "lstm", GRUCell: "gru"}
MODULES: tuple[tuple[type[nn.Module], LayerKind], ...] = (
    (nn.RNN, "rnn"),
    (nn.LSTM, "lstm"),
    (nn.GRU, "gru"),
    (nn.RNNCell, "rnn"),
    (nn.LSTMCell, "lstm"),
    (nn.GRUCell, "gru"),
)


NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class Changed(NamedTuple):
    """A copy of a model with other weights."""

    model: Model
    weights: dict[str, Tensor]
    parts: tuple[str, ...] | None = ("",)
    """Paths of the layers of torch.nn that were changed, "" for the whole of a model; None where there is none."""
    lines: tuple[str, ...] = ()
    """Lines that do the same to what was found in the user's own code, a module called `model`."""

    def code(self, body: str) -> str:
        """Lines of PyTorch that do the same.

        Args:
            body: what is done to `weights`, one layer's dictionary; `H` is its hidden size.
        """
        parts = [] if self.parts is None else [each_layer(body, self.parts)]
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
    return Changed(stack, weights, None, tuple(line for layer in written for line in layer.lines))


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


def _changed_module(model: WholeModule, change: Change, x: Tensor | None) -> Changed | None:
    own = copied(model.module)
    parts: dict[str, None] = {}
    with torch.no_grad():
        for path, part in own.named_modules():
            kind = next((kind for known, kind in MODULES if isinstance(part, known)), None)
            if kind is None or int(getattr(part, "proj_size", False)):
                continue
            assert isinstance(part, nn.RNNBase | nn.RNNCellBase)
            for suffix in _suffixes(part):
                if _change_layer(part, suffix, kind, path, change):
                    parts[path] = None
        written = [] if x is None else [layer for layer in found_layers(model, own, x) if change(layer)]
    if not parts and not written:
        return None
    found = copy.copy(model)
    found.module, found.weights = own, None
    lines = tuple(line for layer in written for line in layer.lines)
    weights = {key: value.detach() for key, value in own.state_dict().items()}
    return Changed(found, weights, tuple(parts) or None, lines)


def _change_layer(part: nn.RNNBase | nn.RNNCellBase, suffix: str, kind: LayerKind, path: str, change: Change) -> bool:
    """Make the change to one layer and direction; False, and the layer as it was, where it cannot be written."""
    with _settled(part):
        before = {key: getattr(part, key + suffix).detach().clone() for key in _names(part)}
        own = dict(part.named_parameters(recurse=False, remove_duplicate=False))
        plain = all(key + suffix in own for key in before)
        given = {key: value.clone() for key, value in before.items()}
        layer = Layer(kind, given, part.hidden_size, path, _phi(part), suffix.endswith("_reverse"), plain)
        kept = {key: value.clone() for key, value in part.state_dict().items()}
        if not change(layer):
            return False
        new = {key: value for key, value in layer.weights.items() if not torch.equal(value, before[key])}
        if all(_written(part, key + suffix, value) for key, value in new.items()):
            return True
        part.load_state_dict(kept)
        return False


def _written(part: nn.Module, name: str, value: Tensor) -> bool:
    """Write a weight, through its parametrization where it has one; False where the layer would not have that weight.

    The old weight_norm and spectral_norm make the weight anew at every call: what is written to it is lost.
    """
    if (parameter := dict(part.named_parameters(recurse=False, remove_duplicate=False)).get(name)) is not None:
        parameter.copy_(value)
        return True
    if not parametrize.is_parametrized(part, name):
        return False
    try:
        setattr(part, name, value)
    except (NotImplementedError, RuntimeError, TypeError, ValueError):
        return False  # there is no way back through it, or not from these numbers
    close = torch.finfo(value.dtype).eps ** 0.5
    return torch.allclose(getattr(part, name), value, rtol=close, atol=close * float(value.abs().max()))


@contextmanager
def _settled(part: nn.Module) -> Iterator[None]:
    """Parametrizations in evaluation mode: reading a weight in training mode turns those of spectral_norm."""
    inner = [one for one in part.modules() if one is not part and one.training]
    for one in inner:
        one.training = False
    try:
        yield
    finally:
        for one in inner:
            one.training = True


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
    return NAMES if part.bias else NAMES[:2]


def which(parts: tuple[str, ...]) -> str:
    """A comment that says which layers `rnn` stands for."""
    if parts == ("",):
        return "# rnn: your nn.RNN, nn.LSTM, nn.GRU, or one of their cells\n"
    named = ", ".join(f"model.{part}" if part else "your module" for part in parts)
    return f"# rnn: {named}{'' if len(parts) == 1 else ', one after the other'}\n"


def each_layer(lines: str, parts: tuple[str, ...] = ("",)) -> str:
    """Lines of PyTorch that do something to `weights`, the dictionary of one layer and direction of a module `rnn`."""
    body = "\n".join(f"        {line}" if line else "" for line in lines.strip("\n").split("\n"))
    return (
        "import torch\n\n"
        f"{which(parts)}"
        "H = rnn.hidden_size\n"
        'ways = ["", "_reverse"] if getattr(rnn, "bidirectional", False) else [""]\n'
        'ends = [f"_l{layer}{way}" for layer in range(getattr(rnn, "num_layers", 0)) for way in ways] or [""]\n'
        f"names = {NAMES}\n"
        "with torch.no_grad():\n"
        "    for end in ends:\n"
        "        found = {name: getattr(rnn, name + end, None) for name in names}\n"
        "        weights = {name: value.detach().clone() for name, value in found.items() if value is not None}\n"
        f"{body}\n"
        "        for name, value in weights.items():\n"
        "            if name + end in rnn._parameters:\n"
        "                found[name].copy_(value)\n"
        "            elif not torch.equal(found[name], value):  # parametrized: written through its right inverse\n"
        "                setattr(rnn, name + end, value)\n"
    )

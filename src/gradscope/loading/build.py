"""A recurrence found in a file, as cells of gradscope and as the module of torch.nn it came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from gradscope.errors import UsageError
from gradscope.loading.recurrences import Recurrence
from gradscope.models.cell import Cell
from gradscope.models.gru import GRUCell
from gradscope.models.lstm import LSTMCell
from gradscope.models.lstm_projected import ProjectedLSTMCell
from gradscope.models.rnn import RNNCell
from gradscope.text import safe_text

MODULES: Mapping[str, Callable[..., nn.RNNBase]] = {"RNN": nn.RNN, "GRU": nn.GRU, "LSTM": nn.LSTM}


def cells_of(found: Recurrence, nonlinearity: str, dtype: torch.dtype, device: str) -> list[Cell]:
    """The layers in closed form, from the bottom up.

    Raises:
        UsageError: a bidirectional recurrence: its layers read the future, so no joint state exists.
    """
    if found.bidirectional:
        name = safe_text(found.name, 60) or "."
        raise UsageError(f"'{name}' ({found}) is bidirectional, which cannot be analysed as one chain")
    make: Mapping[str, Callable[[str, dict[str, Tensor]], Cell]] = {
        "RNN": lambda name, weights: RNNCell(name, weights, nonlinearity),
        "GRU": GRUCell,
        "LSTM": ProjectedLSTMCell if found.projection else LSTMCell,
    }
    cells = []
    for index in range(found.layers):
        own = {key.split("_l")[0]: value for key, value in found.weights.items() if key.endswith(f"_l{index}")}
        weights = {key: value.to(device, dtype, copy=True) for key, value in own.items()}
        cells.append(make[found.kind](f"l{index}", weights))
    return cells


def as_torch(
    found: Recurrence, nonlinearity: str = "tanh", dtype: torch.dtype = torch.float64, device: str = "cpu"
) -> nn.RNNBase:
    """torch.nn's own module filled from the file, batch first, in evaluation mode."""
    more: dict[str, object] = {"nonlinearity": nonlinearity} if found.kind == "RNN" else {}
    more |= {"proj_size": found.projection} if found.projection else {}
    # The first weights are thrown away: they must not move the random numbers of whoever draws next.
    with torch.random.fork_rng(devices=[]):
        module = MODULES[found.kind](
            found.input_size,
            found.hidden,
            found.layers,
            bias=found.bias,
            batch_first=True,
            bidirectional=found.bidirectional,
            dtype=dtype,
            device=device,
            **more,
        )
    module.load_state_dict(found.weights, strict=True)
    return module.eval()

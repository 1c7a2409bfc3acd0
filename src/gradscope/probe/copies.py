"""Copies of a model that can be trained: all of them in lockstep where their layers allow it, else one by one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn

from gradscope.chain import ArrayChain
from gradscope.errors import UsageError
from gradscope.models.cell import Cell
from gradscope.models.custom import CustomCell
from gradscope.models.direct import Direct
from gradscope.models.gru import GRUCell
from gradscope.models.lru import LRUCell
from gradscope.models.lstm import LSTMCell
from gradscope.models.recurrent import Recurrent
from gradscope.models.rnn import RNNCell
from gradscope.models.user_modules import copied
from gradscope.probe.lockstep.gru import gru
from gradscope.probe.lockstep.lru import lru
from gradscope.probe.lockstep.lstm import lstm
from gradscope.probe.lockstep.rnn import rnn
from gradscope.probe.lockstep.weights import Weights
from gradscope.probe.modules import Modules
from gradscope.text import safe_text

LAYERS: Mapping[type, Callable[[Cell, Tensor, Weights, Tensor], Tensor]] = {
    RNNCell: lambda cell, x, w, s: rnn(x, w, s, cell.nonlinearity),  # type: ignore[attr-defined]
    GRUCell: lambda cell, x, w, s: gru(x, w, s),
    LSTMCell: lambda cell, x, w, s: lstm(x, w, s),
    LRUCell: lambda cell, x, w, s: lru(x, w, s),
}


class Copies(Protocol):
    """Independent copies of one model, float32."""

    output_size: int
    has_steps: bool
    """Whether there is an output at every step, and not one of the whole sequence."""

    def leaves(self, run: int) -> list[nn.Parameter]:
        """What is trained of copy `run`."""
        ...

    def outputs(self, x: Tensor, runs: Sequence[int]) -> Tensor:
        """Outputs (R, B, T, O) of x (R, B, T, F), differentiable; row r is copy `runs[r]`."""
        ...

    def precise(self) -> AbstractContextManager[None]:
        """Where entered, x may be float64 and is worked on in that type, if the model allows it."""
        ...


def copies_of(models: Sequence[Recurrent | Direct | ArrayChain], name: str) -> Copies:
    """A copy of each of `models`, which differ in weights alone.

    Raises:
        UsageError: nothing in them can be trained.
    """
    first = models[0]
    found: Copies | None = None
    if isinstance(first, Recurrent):
        plain = first.start is None and not first.cuts and all(type(cell) in LAYERS for cell in first.cells)
        found = (Lockstep if plain else Unrolled)([model for model in models if isinstance(model, Recurrent)])
    elif isinstance(first, Direct):
        found = Modules([model for model in models if isinstance(model, Direct)])
    if found is None or not found.leaves(0):
        raise UsageError(
            f"{safe_text(name)} has no weights to train; probe a family, a file of weights, or an nn.Module"
        )
    return found


class Lockstep:
    """Stacks of layers whose copies take every step together."""

    has_steps = True

    def __init__(self, models: Sequence[Recurrent]) -> None:
        """Copy the weights."""
        self.cells, self.output_size = models[0].cells, models[0].output_size
        self.weights = [[_trainable(cell.parameters) for cell in model.cells] for model in models]

    def leaves(self, run: int) -> list[nn.Parameter]:
        """Its weights."""
        return [leaf for layer in self.weights[run] for leaf in layer.values()]

    def outputs(self, x: Tensor, runs: Sequence[int]) -> Tensor:
        """Layer by layer, in the type of x."""
        flow = x.permute(2, 0, 3, 1).contiguous()
        for index, cell in enumerate(self.cells):
            layers = [self.weights[run][index] for run in runs]
            weights = {key: torch.stack([layer[key] for layer in layers]).to(x.dtype) for key in layers[0]}
            start = x.new_zeros(x.shape[0], cell.state_size, x.shape[1])
            flow = LAYERS[type(cell)](cell, flow, weights, start)
        return flow.permute(1, 3, 0, 2)

    def precise(self) -> AbstractContextManager[None]:
        """In the type of x at any time."""
        return nullcontext()


class Unrolled:
    """Any other stack of cells, unrolled by its own step."""

    has_steps = True

    def __init__(self, models: Sequence[Recurrent]) -> None:
        """Copy cells and weights."""
        self.models, self.output_size = [_copied(model) for model in models], models[0].output_size

    def leaves(self, run: int) -> list[nn.Parameter]:
        """Weights of its cells, those of a user's module included."""
        found = [leaf for leaf in self.models[run].parameters().values() if isinstance(leaf, nn.Parameter)]
        own = [
            cell.module for cell in self.models[run].cells if isinstance(cell, CustomCell) and cell.module is not None
        ]
        return found + [leaf for module in own for leaf in module.parameters()]

    def outputs(self, x: Tensor, runs: Sequence[int]) -> Tensor:
        """Copy by copy."""
        own = self.models[0].cells[0].initial_state(1).dtype
        return torch.stack([self.models[run](part.to(own)) for run, part in zip(runs, x, strict=True)]).to(x.dtype)

    def precise(self) -> AbstractContextManager[None]:
        """As they are: their steps may hold numbers of one type alone."""
        return nullcontext()


def _trainable(weights: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    return {key: nn.Parameter(value.detach().float().clone()) for key, value in weights.items()}


def _copied(model: Recurrent) -> Recurrent:
    cells = []
    for cell in model.cells:
        own = copy.copy(cell)
        if isinstance(own, CustomCell):
            if own.module is not None:
                own.module = copied(own.module).float().train()
                own.function = own.module
            own.initial, own.parameters = own.initial.float(), {}
        else:
            own.parameters = dict(_trainable(cell.parameters))
        cells.append(own)
    start = None if model.start is None else [part.float() for part in model.start]
    return Recurrent(model.name, cells, start=start, cuts=model.cuts)

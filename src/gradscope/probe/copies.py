"""Copies of a model that can be trained: all of them in lockstep where their layers allow it, else one by one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
from gradscope.probe.lockstep.gru import gru
from gradscope.probe.lockstep.lru import lru
from gradscope.probe.lockstep.lstm import lstm
from gradscope.probe.lockstep.rnn import rnn
from gradscope.probe.lockstep.weights import Weights
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


class Modules:
    """Models that are run as they are, in training mode."""

    def __init__(self, models: Sequence[Direct]) -> None:
        """Copy the modules."""
        self.direct = models[0]
        self.modules = [copy.deepcopy(model.module).float().train() for model in models]
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            self.output_size = int(self._run(0, _two_steps(self.direct)).shape[-1])

    def leaves(self, run: int) -> list[nn.Parameter]:
        """All its parameters."""
        return [leaf for leaf in self.modules[run].parameters() if leaf.requires_grad]

    def outputs(self, x: Tensor, runs: Sequence[int]) -> Tensor:
        """Copy by copy."""
        found = [self._run(run, part) for run, part in zip(runs, x, strict=True)]
        # A module that answers once for the whole sequence answers at its last step.
        stacked = torch.stack([one if one.ndim == 3 else one[:, None] for one in found])
        return stacked.to(x.dtype) if x.is_floating_point() else stacked

    @contextmanager
    def precise(self) -> Iterator[None]:
        """Run in float64 for a while."""
        for module in self.modules:
            module.double()
        try:
            yield
        finally:
            for module in self.modules:
                module.float()

    def _run(self, run: int, x: Tensor) -> Tensor:
        module = self.modules[run]
        own = next((leaf.dtype for leaf in module.parameters()), x.dtype)
        taken = x if self.direct.ids is not None else x.to(own)
        try:
            found = self.direct.output(module(self.direct.laid_out(taken)))
            # One number a sequence.
            return found[:, None] if found.ndim == 1 else found
        except UsageError:
            raise
        except Exception as error:
            what = f"{type(error).__name__}: {safe_text(error)}"
            raise UsageError(
                f"{safe_text(self.direct.name)} fails in training mode on x {tuple(x.shape)}: {what}"
            ) from error


def _two_steps(direct: Direct) -> Tensor:
    return torch.zeros(2, 2, dtype=torch.int64) if direct.ids is not None else torch.zeros(2, 2, direct.input_size)


def _trainable(weights: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    return {key: nn.Parameter(value.detach().float().clone()) for key, value in weights.items()}


def _copied(model: Recurrent) -> Recurrent:
    cells = []
    for cell in model.cells:
        own = copy.copy(cell)
        if isinstance(own, CustomCell):
            if own.module is not None:
                own.module = copy.deepcopy(own.module).float().train()
                own.function = own.module
            own.initial, own.parameters = own.initial.float(), {}
        else:
            own.parameters = dict(_trainable(cell.parameters))
        cells.append(own)
    start = None if model.start is None else [part.float() for part in model.start]
    return Recurrent(model.name, cells, start=start, cuts=model.cuts)

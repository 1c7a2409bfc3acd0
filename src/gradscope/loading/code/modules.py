"""Modules of torch as models: bare recurrences, and any nn.Module with whatever lies inside."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gradscope.config.places import is_file_of_numbers
from gradscope.loading.code.token_ids import token_ids
from gradscope.loading.code.widths import features
from gradscope.loading.source import Source
from gradscope.models.capture.attended import reader
from gradscope.models.capture.known import cells_of
from gradscope.models.cell import Cell
from gradscope.models.copied import copied
from gradscope.models.direct import Direct, Module, applied, types_of
from gradscope.models.recurrent import Recurrent
from gradscope.records import Loaded, RunSpec


def in_type(module: Module, spec: RunSpec) -> Module:
    """The module itself in the number type and on the device of the run, complex parameters in the complex one."""
    real = getattr(torch, spec.dtype)

    def cast(tensor: Tensor) -> Tensor:
        # Module.to would take the real part of a complex parameter.
        kind = real.to_complex() if tensor.is_complex() else real if tensor.is_floating_point() else tensor.dtype
        return tensor.to(spec.device, kind)

    return applied(module, cast)


def from_torch(module: nn.RNN | nn.GRU | nn.LSTM, name: str) -> Recurrent | Direct:
    """A bare recurrence of torch.nn, in evaluation mode.

    One with a single direction is a stack of cells with the module's own weights, held against the module itself;
    a bidirectional one has no joint state and is run as it is.
    """
    module = module.eval()
    if module.bidirectional:
        plain = BatchFirst(module)
        return Direct(name, plain, module.input_size, kind="module")
    cells = [level[0] for level in cells_of(module)]
    reference = _unparametrized(module, cells) if parametrize.is_parametrized(module) else copied(module)
    reference.batch_first = True
    return Recurrent(name, cells, reference=reference)


def _unparametrized(module: nn.RNNBase, cells: list[Cell]) -> nn.RNNBase:
    """A layer of torch.nn whose weights are numbers: gradients are compared by weights, whatever those are made of."""
    kind = next(kind for kind in (nn.RNN, nn.GRU, nn.LSTM) if isinstance(module, kind))
    more = {"nonlinearity": module.nonlinearity} if isinstance(module, nn.RNN) else {}
    more |= {"proj_size": module.proj_size} if isinstance(module, nn.LSTM) else {}
    made = kind(module.input_size, module.hidden_size, len(cells), bias=module.bias, **more)
    weights = {f"{key}_{cell.name}": value for cell in cells for key, value in cell.parameters.items()}
    made.to(next(iter(weights.values()))).load_state_dict(weights)
    return made.eval()


COMPLEX = "its parameters are complex, whose steps are not followed, so it is measured from its input alone"


def has_own_head(model: object) -> bool:
    """Whether the outputs of a model are what a user's module answers, and not the states of a layer or a family."""
    return isinstance(model, Direct) and model.kind == "module" and not isinstance(model.module, BatchFirst)


class BatchFirst(nn.Module):
    """A recurrence of torch.nn that takes (batch, T, features) and returns its output alone."""

    def __init__(self, rnn: nn.RNNBase) -> None:
        """Take the module as it is."""
        super().__init__()
        self.rnn = rnn

    def forward(self, x: Tensor) -> Tensor:
        """(batch, T, directions x features)."""
        found: Tensor = self.rnn(x if self.rnn.batch_first else x.transpose(0, 1))[0]
        return found if self.rnn.batch_first else found.transpose(0, 1)


def from_cell(module: nn.RNNCellBase, name: str) -> Recurrent:
    """A cell of torch.nn by itself, held against itself called step by step."""
    return Recurrent(name, [level[0] for level in cells_of(module)], reference=Looped(module.eval()))


class Looped(nn.Module):
    """A cell of torch.nn walked along (batch, T, features) from a zero state; returns its outputs."""

    def __init__(self, cell: nn.RNNCellBase) -> None:
        """Take the cell as it is."""
        super().__init__()
        self.cell, self.stands_for = cell, f"torch.nn.{type(cell).__name__}"

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """(batch, T, hidden)."""
        state, outputs = None, []
        for step in x.unbind(1):
            state = self.cell(step, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return (torch.stack(outputs, 1),)


def from_module(module: nn.Module, name: str, spec: RunSpec, loaded: Loaded) -> Source:
    """Any nn.Module, put into the type of the run, and on its device."""
    own_types = types_of(module)
    module = in_type(module, spec).eval()
    ids = token_ids(module) if spec.input_size is None else None
    has_data = is_file_of_numbers(spec.input)
    size = spec.input_size if spec.input_size is not None else features(module, own_types, has_data=has_data)
    closed = str(getattr(module, "closed", "")) or (COMPLEX if any(p.is_complex() for p in module.parameters()) else "")
    time_first = None if spec.layout is None else spec.layout == "time-first"
    # With the user's own data, what is analysed is what their training does; only a layer that itself says which axis
    # it takes first is handed what it asks for.
    turns = spec.input is None or hasattr(module, "batch_first")

    @cache
    def built(width: int) -> Direct:
        model = Direct(
            name,
            module,
            width,
            kind="module",
            time_first=time_first,
            ids=ids,
            key=spec.key,
            closed=closed,
            turns=turns,
            own_types=own_types,
        )
        model.weights = reader(model)
        return model

    if size is not None:
        built(size)
    loaded = replace(loaded, assumed=(*loaded.assumed, *([closed] if closed else [])))
    return Source(name, lambda width, _seed: built(width if size is None else size), size, loaded, ids)

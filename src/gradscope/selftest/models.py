"""Small models with weights that are written out, and the pieces that several topics build them from."""

from __future__ import annotations

import torch
from torch import Tensor

from gradscope.models.custom import CustomCell, Step
from gradscope.models.direct import Direct
from gradscope.models.family import family_model
from gradscope.models.recurrent import Recurrent
from gradscope.models.rnn import RNNCell

RECURRENT = ("rnn", "gru", "lstm", "lru")
"""The families with a state; a test holds this list against the registry."""
FEATURES = 3


def real(values: list[float] | list[list[float]]) -> Tensor:
    """Numbers in double precision."""
    return torch.tensor(values, dtype=torch.float64)


def map_of(step: Step, start: list[float]) -> Recurrent:
    """A map s -> step(x, s) without input, as a user's own cell."""
    return Recurrent("map", [CustomCell("map", step, real(start), 0)])


def henon() -> Recurrent:
    """The Henon map with a = 1.4, b = 0.3 from (.1, .1)."""

    def step(x: Tensor, s: Tensor) -> Tensor:
        return torch.stack([1 - 1.4 * s[:, 0] ** 2 + s[:, 1], 0.3 * s[:, 0]], -1)

    return map_of(step, [0.1, 0.1])


def elman(weight_hh: list[list[float]], nonlinearity: str, weight_ih: Tensor | None = None) -> Recurrent:
    """An RNN without bias whose input, if no weights are given for it, is one feature that it ignores."""
    hidden = real(weight_hh)
    given = hidden.new_zeros(len(hidden), 1) if weight_ih is None else weight_ih
    return Recurrent("rnn", [RNNCell("l0", {"weight_ih": given, "weight_hh": hidden}, nonlinearity)])


def family(name: str, **options: object) -> Recurrent | Direct:
    """A family with fresh weights from seed 0, for `FEATURES` features in double precision."""
    given = {key: str(value) for key, value in options.items()}
    return family_model(name, given, name, {}).build(input_size=FEATURES, seed=0, dtype=torch.float64)


def stacked(name: str, hidden: int = 5, layers: int = 2) -> Recurrent:
    """Two layers of a family in `RECURRENT`.

    Raises:
        TypeError: the family has no state.
    """
    model = family(name, hidden=hidden, layers=layers)
    if not isinstance(model, Recurrent):
        raise TypeError(f"{name} has no state")
    return model


def noise(*shape: int, seed: int = 1) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def silence(steps: int, features: int = 1) -> Tensor:
    """One sequence of zeros, (1, steps, features)."""
    return torch.zeros(1, steps, features, dtype=torch.float64)


def joint_step(model: Recurrent, x: Tensor, s: Tensor) -> Tensor:
    """One step of all layers on the joint state, (batch, size) -> (batch, size), through the cells' `step` alone."""
    parts, flow = list(torch.split(s, [cell.state_size for cell in model.cells], -1)), x
    for index, cell in enumerate(model.cells):
        parts[index] = cell.step(flow, parts[index])
        flow = cell.output(flow, parts[index])
    return torch.cat(parts, -1)


def joint_states(model: Recurrent, x: Tensor) -> list[Tensor]:
    """s_0 .. s_{T-1} of one sequence x (1, T, features), each (1, size)."""
    states = [torch.cat(model.initial_states(1), -1)]
    for step in x.unbind(1)[:-1]:
        states.append(joint_step(model, step, states[-1]))
    return states

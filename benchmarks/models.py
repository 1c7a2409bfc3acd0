"""The models that are measured: gradscope's, and torch's own module with the same weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gradscope.models.family import family_model
from gradscope.models.stack import Recurrent

INPUTS = 16
"""Features per step, gradscope's default."""
MODULES: dict[str, type[nn.RNN | nn.LSTM | nn.GRU]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


def model(family: str, hidden: int, dtype: torch.dtype) -> Recurrent:
    """One layer with torch's default initialisation, seed 0."""
    made = family_model(family, {"hidden": str(hidden)}, family, {}).build(input_size=INPUTS, seed=0, dtype=dtype)
    if not isinstance(made, Recurrent):
        raise TypeError(f"{family} has no state")
    return made


def module_of(model: Recurrent) -> nn.RNN | nn.LSTM | nn.GRU:
    """torch.nn's module with the weights of a one-layer model."""
    weights = {key.removeprefix("l0."): value for key, value in model.parameters().items()}
    hidden = model.output_size
    made = MODULES[model.name](model.input_size, hidden, batch_first=True, dtype=weights["weight_hh"].dtype)
    made.load_state_dict({f"{key}_l0": value for key, value in weights.items()})
    return made


def sequence(batch: int, length: int, dtype: torch.dtype) -> Tensor:
    """Standard normal numbers (batch, T, features) from seed 1."""
    generator = torch.Generator().manual_seed(1)
    x: Tensor = torch.randn(batch, length, INPUTS, dtype=torch.float64, generator=generator)
    return x.to(dtype)


def readout(output: Tensor) -> Tensor:
    """The direction that the loss reads from the last output: a random unit vector from seed 2."""
    v = torch.randn(output.shape[-1], dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    unit: Tensor = v / v.norm()
    return unit.to(output.dtype)


def final_loss(output: Tensor) -> Tensor:
    """<v, y_T>, summed over sequences; output is (batch, T, features)."""
    loss: Tensor = (output[:, -1] @ readout(output)).sum()
    return loss


def final_cotangent(output: Tensor) -> Tensor:
    """dL/dy of `final_loss`."""
    v = torch.zeros_like(output)
    v[:, -1] = readout(output)
    return v


def threads() -> str:
    """`2 threads`."""
    count = torch.get_num_threads()
    return f"{count} thread{'s' if count != 1 else ''}"

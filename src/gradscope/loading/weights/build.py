"""A recurrence found in a file, as the module of torch.nn it came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from gradscope.isolation.state import own_random_numbers
from gradscope.loading.weights.recurrences import Recurrence

MODULES: Mapping[str, Callable[..., nn.RNN | nn.GRU | nn.LSTM]] = {"RNN": nn.RNN, "GRU": nn.GRU, "LSTM": nn.LSTM}


def as_torch(
    found: Recurrence, nonlinearity: str = "tanh", dtype: torch.dtype = torch.float64, device: str = "cpu"
) -> nn.RNN | nn.GRU | nn.LSTM:
    """torch.nn's own module filled from the file, batch first, in evaluation mode."""
    more: dict[str, object] = {"nonlinearity": nonlinearity} if found.kind == "RNN" else {}
    more |= {"proj_size": found.projection} if found.projection else {}
    # The first weights are thrown away: they must not move the random numbers of whoever draws next.
    with own_random_numbers():
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

"""The catalogue that fast code is compared with slow truth over: every recurrent family x option x layers."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from gradscope.models.family import Draw, family_model
from gradscope.models.lstm import ProjectedLSTMCell
from gradscope.models.stack import Recurrent


@dataclass(frozen=True)
class Case:
    """A small model, and the shape of what it runs on."""

    family: str
    options: dict[str, str] = field(default_factory=dict)
    batch: int = 2
    length: int = 7
    input_size: int = 3

    def __str__(self) -> str:
        """The word for it, as a test id."""
        return ",".join([self.family, *(f"{k}={v}" for k, v in self.options.items()), f"B{self.batch}"])

    def model(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> Recurrent:
        """A fresh model; the option `proj`, which no family has, projects an LSTM's output."""
        options = {"hidden": "5", **self.options}
        if "proj" in options:
            return projected(options, self.input_size, seed, dtype)
        built = family_model(self.family, options, str(self), {}).build(
            input_size=self.input_size, seed=seed, dtype=dtype
        )
        assert isinstance(built, Recurrent)
        return built

    def x(self, seed: int = 1) -> Tensor:
        """A random sequence, (batch, length, input_size)."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(self.batch, self.length, self.input_size, dtype=torch.float64, generator=generator)


def projected(options: dict[str, str], input_size: int, seed: int, dtype: torch.dtype) -> Recurrent:
    """A stack of projected LSTM layers, uniform weights as in torch.nn."""
    draw, hidden, size = Draw(seed, dtype, "cpu"), int(options["hidden"]), int(options["proj"])
    cells = []
    for index in range(int(options.get("layers", "1"))):
        shapes = {"weight_ih": (4 * hidden, size if index else input_size), "weight_hh": (4 * hidden, size)}
        shapes |= {"weight_hr": (size, hidden)}
        if options.get("bias") != "false":
            shapes |= {"bias_ih": (4 * hidden,), "bias_hh": (4 * hidden,)}
        weights = {name: draw.uniform(*shape, bound=hidden**-0.5) for name, shape in shapes.items()}
        cells.append(ProjectedLSTMCell(f"l{index}", weights))
    return Recurrent("projected", cells)


RECURRENT = [
    Case("rnn"),
    Case("rnn", {"nonlinearity": "relu", "init": "identity"}),
    Case("rnn", {"nonlinearity": "linear", "init": "orthogonal", "gain": "1.1", "bias": "false"}),
    Case("rnn", {"init": "normal", "gain": "0.8", "layers": "3"}, batch=1),
    Case("gru"),
    Case("gru", {"update_bias": "2", "layers": "2"}, batch=3),
    Case("gru", {"bias": "false"}),
    Case("lstm"),
    Case("lstm", {"forget_bias": "3", "layers": "2"}, batch=1),
    Case("lstm", {"bias": "false", "init": "orthogonal"}),
    Case("lru"),
    Case("lru", {"layers": "2", "r_min": "0.5"}, batch=3),
    Case("lstm", {"proj": "2"}),
    Case("lstm", {"proj": "3", "layers": "2", "bias": "false"}, batch=1),
]

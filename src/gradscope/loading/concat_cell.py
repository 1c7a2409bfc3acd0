"""An Elman layer written as one matrix over input and state: h_t = phi(W cat(x_t, h_{t-1}) + b).

The layer of the PyTorch tutorial on names, `i2h = nn.Linear(input + hidden, hidden)`, applied to torch.cat((x, h)).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradscope.errors import UsageError
from gradscope.files.tensors import floats
from gradscope.loading.torch_recurrences import RECURRENT_KEY
from gradscope.models.rnn import RNNCell
from gradscope.registry import unknown
from gradscope.text import safe_text

CELLS: Mapping[str, str] = {"linear-concat": "linear", "tanh-concat": "tanh"}
"""--cell -> the nonlinearity."""


@dataclass(frozen=True, eq=False)
class Concat:
    """One linear layer over (x, h), input first."""

    name: str
    weight: Tensor
    """(H, I + H)."""
    bias: Tensor | None
    nonlinearity: str

    @property
    def input_size(self) -> int:
        """Features of x, I."""
        return self.weight.shape[1] - self.weight.shape[0]

    def __str__(self) -> str:
        """`linear layer over (x, h), 57 -> 128`."""
        phi = "linear layer" if self.nonlinearity == "linear" else f"{self.nonlinearity} layer"
        return f"{phi} over (x, h), {self.input_size} -> {len(self.weight)}"

    def cell(self, dtype: torch.dtype, device: str) -> RNNCell:
        """The same step with the matrix cut in two: W = [W_ih W_hh]."""
        weight = self.weight.to(device, dtype)
        parts = {"weight_ih": weight[:, : self.input_size].clone(), "weight_hh": weight[:, self.input_size :].clone()}
        if self.bias is not None:
            parts["bias_ih"] = self.bias.to(device, dtype).clone()
        return RNNCell("l0", parts, self.nonlinearity)

    def as_torch(self, dtype: torch.dtype, device: str) -> nn.Module:
        """The layer as its author wrote it: torch.nn.Linear on torch.cat, step after step."""
        return ConcatModule(self, dtype, device)


class ConcatModule(nn.Module):
    """torch.nn.Linear on torch.cat((x, h), 1) in a loop."""

    stands_for = "torch.nn.Linear over (x, h)"

    def __init__(self, found: Concat, dtype: torch.dtype, device: str) -> None:
        """Take the weights of the file."""
        super().__init__()
        hidden, columns = found.weight.shape
        bias = found.bias is not None
        self.linear = nn.utils.skip_init(nn.Linear, columns, hidden, bias=bias, dtype=dtype, device=device)
        self.squash = torch.tanh if found.nonlinearity == "tanh" else nn.Identity()
        with torch.no_grad():
            self.linear.weight.copy_(found.weight)
            if found.bias is not None:
                self.linear.bias.copy_(found.bias)

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        """States h_1 .. h_T (batch, T, H) of x (batch, T, I)."""
        state = x.new_zeros(len(x), self.linear.out_features) if h is None else h
        states = []
        for step in x.unbind(1):
            state = self.squash(self.linear(torch.cat((step, state), 1)))
            states.append(state)
        return torch.stack(states, 1)


def find_concat(tensors: Mapping[str, Tensor], key: str | None, cell: str, shown: str) -> Concat:
    """The layer that --key names, its weight (H, I + H) and its bias.

    Raises:
        UsageError: no key, no such layer, or a shape that cannot be one.
    """
    layers = concat_layers(tensors)
    names = [safe_text(name, 60) for name in layers]
    if key is None:
        raise UsageError(f"--cell {cell} needs --key: which layer of '{shown}' ({', '.join(names[:8]) or 'none fits'})")
    wanted = key.removesuffix(".weight")
    chosen = [name for name in layers if name == wanted or name.endswith("." + wanted)]
    chosen = [name for name in chosen if name == wanted] or chosen
    if len(chosen) != 1:
        raise UsageError(f"'{shown}': {unknown('layer', key, names)}; its weight must be (hidden, input + hidden)")
    place = layers[chosen[0]]
    bias = tensors.get(place.removesuffix("weight") + "bias") if place.endswith("weight") else None
    weight = floats(tensors[place], place, shown)
    if bias is not None:
        bias = floats(bias, f"{chosen[0]}.bias", shown)
        if tuple(bias.shape) != (len(weight),):
            raise UsageError(f"'{shown}' has a bias of shape {tuple(bias.shape)}; the layer needs ({len(weight)},)")
    return Concat(chosen[0], weight, bias, CELLS[cell])


def concat_layers(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Layers that may take (x, h), with more columns than rows: name -> name of the weight."""
    wide = [name for name, tensor in tensors.items() if tensor.ndim == 2 and 0 < tensor.shape[0] < tensor.shape[1]]
    return {name.removesuffix(".weight"): name for name in wide if RECURRENT_KEY.fullmatch(name) is None}

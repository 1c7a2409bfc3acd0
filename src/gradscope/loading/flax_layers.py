"""Cells of Flax, by their keys: one dense layer a gate, `hf/kernel` and `if/kernel`, kernels (inputs, outputs).

LSTMCell and OptimizedLSTMCell (i, f, g, o), GRUCell (r, z, n) and SimpleCell of flax.linen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from gradscope.errors import UsageError
from gradscope.loading.foreign_layer import ForeignLayer, pick
from gradscope.models.foreign import Activation, Formula
from gradscope.text import safe_text

GATES: Mapping[str, tuple[str, ...]] = {"LSTM": tuple("ifgo"), "GRU": tuple("rzn"), "RNN": ("",)}
KEY = re.compile(r"(?:(.*)[./])?([ih][ifgorzn]?)[./](kernel|bias)", re.DOTALL)


def flax_cells(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Cells by the name before their gates -> `hf/kernel` and so on; those with all kernels of a kind."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if match := KEY.fullmatch(key):
            prefix, gate, part = match.groups()
            found.setdefault(prefix or "", {})[f"{gate}/{part}"] = tensor
    return {name: parts for name, parts in found.items() if _kind(parts)}


def _kind(parts: Mapping[str, Tensor]) -> str | None:
    kernels = {key for key in parts if key.endswith("/kernel")}
    for kind, gates in GATES.items():
        if kernels == {f"{side}{gate}/kernel" for side in "ih" for gate in gates}:
            return kind
    return None


def flax_layer(
    cells: Mapping[str, dict[str, Tensor]], key: str | None, nonlinearity: str | None, shown: str
) -> ForeignLayer:
    """The cell that `key` names.

    Raises:
        UsageError: none or several, or shapes that do not fit.
    """
    name = list(cells)[pick([name or "." for name in cells], key, shown)]
    parts, kind = cells[name], _kind(cells[name])
    assert kind is not None
    if any(t.ndim != (2 if key.endswith("kernel") else 1) or not t.is_floating_point() for key, t in parts.items()):
        raise UsageError(f"'{safe_text(name, 60)}' in '{shown}' has kernels or biases of other shapes; save it again")
    notes: tuple[str, ...] = ("sigmoid gates and tanh of Flax are assumed, weights do not tell",)
    formula = Formula(kind)
    if kind == "RNN":
        formula = Formula(kind, inner=Activation(nonlinearity or "tanh"))
        notes = () if nonlinearity else ("tanh is assumed, weights do not tell; --nonlinearity relu for the other",)
    try:
        weights = {f"weight_{side}h": _kernels(parts, side[0], GATES[kind]) for side in ("i", "h")}
        weights |= {f"bias_{side}h": _biases(parts, side, GATES[kind]) for side in ("i", "h")}
    except RuntimeError as error:
        raise UsageError(f"'{safe_text(name, 60)}' in '{shown}' has gates of several sizes; save it again") from error
    return ForeignLayer(name, formula, weights, notes=notes)


def _kernels(parts: Mapping[str, Tensor], side: str, gates: tuple[str, ...]) -> Tensor:
    return torch.cat([parts[f"{side}{gate}/kernel"].T for gate in gates]).contiguous()


def _biases(parts: Mapping[str, Tensor], side: str, gates: tuple[str, ...]) -> Tensor:
    """Zeros for the gates of a side that has none."""
    width = [parts[f"{side}{gate}/kernel"].shape[1] for gate in gates]
    blank = parts[f"{side}{gates[0]}/kernel"]
    found = [parts.get(f"{side}{gate}/bias", blank.new_zeros(n)) for gate, n in zip(gates, width, strict=True)]
    return torch.cat(found)

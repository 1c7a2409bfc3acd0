"""One layer of another framework as a model, and the recurrent layers of Flax.

Cells of Flax, by their keys: one dense layer a gate, `hf/kernel` and `if/kernel`, kernels (inputs, outputs).
LSTMCell and OptimizedLSTMCell (i, f, g, o), GRUCell (r, z, n) and SimpleCell of flax.linen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradscope.errors import UsageError
from gradscope.files.tensors import floats
from gradscope.loading.torch_recurrences import Group, as_torch, understand
from gradscope.loading.user_module import from_torch
from gradscope.models.other_frameworks import Activation, ForeignCell, Formula
from gradscope.models.stack import Recurrent
from gradscope.models.whole_module import WholeModule
from gradscope.registry import unknown
from gradscope.text import safe_text


@dataclass(frozen=True, eq=False)
class ForeignLayer:
    """One layer, in one direction or in two."""

    name: str
    formula: Formula
    forward: dict[str, Tensor]
    """`weight_ih` (kH, I), `weight_hh` (kH, H), and where there are any `bias_ih`, `bias_hh`, `peephole`."""
    backward: dict[str, Tensor] | None = None
    notes: tuple[str, ...] = ()
    """What was assumed, and what the file says that a reader should know."""
    is_backwards: bool = False
    """Whether it reads a sequence from its end; of two directions, whether `forward` does."""

    def __str__(self) -> str:
        """`LSTM, 3 -> 8, bidirectional`."""
        hidden, inputs = self.forward["weight_hh"].shape[1], self.forward["weight_ih"].shape[1]
        both = ", bidirectional" if self.backward is not None else ""
        return f"{self.formula.kind}, {inputs} -> {hidden}{both}"


def pick(names: Sequence[str], key: str | None, shown: str) -> int:
    """The place of the layer that `key` names: all of its name, or its last parts; the only one without a key.

    Raises:
        UsageError: none or several.
    """
    listed = ", ".join(safe_text(name, 60) for name in names[:8])
    if key is None:
        if len(names) == 1:
            return 0
        raise UsageError(f"'{shown}' holds {len(names)} recurrences; choose one with --key ({listed})")
    whole = [place for place, name in enumerate(names) if name == key]
    ends = [place for place, name in enumerate(names) if name.endswith(("." + key, "/" + key))]
    for chosen in (whole, ends):
        if len(chosen) == 1:
            return chosen[0]
        if chosen:
            raise UsageError(f"'{shown}' holds several under --key {safe_text(key, 60)} ({listed}); say more")
    raise UsageError(f"'{shown}': {unknown('key', key, [safe_text(name, 60) for name in names])}")


def model_of(layer: ForeignLayer, word: str, dtype: torch.dtype, device: str, shown: str) -> Recurrent | WholeModule:
    """The layer in closed form where torch.nn has the same, else by the derivatives of its own step.

    Raises:
        UsageError: shapes that do not fit each other, or two directions of a cell that torch.nn has none like.
    """
    checked = [_checked(way, layer, shown) for way in (layer.forward, layer.backward) if way is not None]
    peephole = any("peephole" in way for way in checked)
    phi = None if peephole else layer.formula.of_torch
    named = {
        f"{key}_l0{end}": value
        for way, end in zip(checked, ("", "_reverse"), strict=False)
        for key, value in way.items()
        if key != "peephole"
    }
    found = understand(Group(layer.name, named), shown)
    if found.kind != layer.formula.kind:
        raise UsageError(
            f"'{safe_text(layer.name, 60)}' in '{shown}' has shapes of a {found.kind}, not a "
            f"{layer.formula.kind}; get the file again"
        )
    if phi is not None:
        return from_torch(as_torch(found, phi, dtype, device), word)
    if layer.backward is not None:
        raise UsageError(
            f"'{safe_text(layer.name, 60)}' in '{shown}' is bidirectional and torch.nn has none like it; "
            f"choose one direction with --key {safe_text(layer.name, 60)}/forward or /backward"
        )
    weights = {key: value.to(device, dtype) for key, value in checked[0].items()}
    return Recurrent(word, [ForeignCell("l0", layer.formula, weights)])


def _checked(way: dict[str, Tensor], layer: ForeignLayer, shown: str) -> dict[str, Tensor]:
    found = {key: floats(value, f"{layer.name}.{key}", shown) for key, value in way.items()}
    hidden = found["weight_hh"].shape[-1]
    if "peephole" in found and tuple(found["peephole"].shape) != (3, hidden):
        raise UsageError(
            f"'{safe_text(layer.name, 60)}' in '{shown}' has peepholes of {tuple(found['peephole'].shape)}, "
            f"(3, {hidden}) are needed; get the file again"
        )
    return found


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

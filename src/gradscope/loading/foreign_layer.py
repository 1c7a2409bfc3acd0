"""A recurrent layer of another framework, once its weights stand in the order of torch.nn, as a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradscope.errors import UsageError
from gradscope.files.tensors import floats
from gradscope.loading.torch_recurrences import Group, as_torch, understand
from gradscope.loading.user_module import from_torch
from gradscope.models.direct import Direct
from gradscope.models.foreign import ForeignCell, Formula
from gradscope.models.recurrent import Recurrent
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


def model_of(layer: ForeignLayer, word: str, dtype: torch.dtype, device: str, shown: str) -> Recurrent | Direct:
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

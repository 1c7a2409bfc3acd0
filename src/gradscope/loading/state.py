"""The state a recurrence starts from, out of a file: `--state`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gradscope.errors import UsageError
from gradscope.files.numpy_file import npz_names, open_npy, read_npz
from gradscope.files.paths import existing_file
from gradscope.files.sniff import kind_of
from gradscope.files.tensors import floats, named_tensors
from gradscope.files.torch_file import load_torch
from gradscope.models.cell import Cell
from gradscope.models.started import StartedCell, rows_for
from gradscope.text import safe_text

FLAG = "--state"


def started(cells: Sequence[Cell], name: str, item: int) -> list[Cell]:
    """The same layers, started from the states in file `name`.

    All of s_0 side by side, layer by layer and h before c, as (size,) or (batch, size); or as torch keeps it: h
    (layers, batch, H), and for an LSTM beside it c.

    Raises:
        UsageError: the file cannot be read, or its numbers are no states of these layers.
    """
    states = first_states(name, [(cell.output_size, cell.state_size - cell.output_size) for cell in cells])
    like = next(iter(cells[0].parameters.values()))
    return [StartedCell(cell, state.to(like), item) for cell, state in zip(cells, states, strict=True)]


def first_states(name: str, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """s_0 of every layer, each (rows, h + c), from a file; `sizes` are the widths of h and c (0: none) of each layer.

    Raises:
        UsageError: see `started`.
    """
    path, shown = existing_file(name, FLAG), safe_text(name)
    parts = _ordered(_tensors(path), shown)
    for part in parts:
        if not bool(part.isfinite().all()):
            raise UsageError(f"{FLAG} '{shown}' holds NaN or Inf; save a state of finite numbers")
    total = sum(h + c for h, c in sizes)
    if len(parts) == 1 and parts[0].ndim in (1, 2) and parts[0].shape[-1] == total:
        joint = parts[0] if parts[0].ndim == 2 else parts[0][None]
        return list(joint.split([h + c for h, c in sizes], -1))
    widths = [[h for h, _ in sizes]] + [[c for _, c in sizes]] * any(c for _, c in sizes)
    layered = [_layered(part, len(sizes)) for part in parts]
    rows = {part.shape[1] for part in layered if part is not None}
    fitting = len(parts) == len(widths) and len(rows) == 1 and None not in layered
    if not fitting or any(
        part is None or part.shape[0] != len(sizes) or {part.shape[2]} != set(wide)
        for part, wide in zip(layered, widths, strict=True)
    ):
        found = " and ".join(str(tuple(part.shape)) for part in parts)
        raise UsageError(f"{FLAG} '{shown}' has shape {found}; {_wanted(sizes, total)}")
    each = [part.unbind(0) for part in layered if part is not None]
    return [torch.cat(layer, -1) for layer in zip(*each, strict=True)]


def _wanted(sizes: Sequence[tuple[int, int]], total: int) -> str:
    h, c = sizes[0]
    whole = f"the state is ({total},) or (batch, {total})"
    return f"{whole}, or h ({len(sizes)}, batch, {h})" + (f" and c ({len(sizes)}, batch, {c})" if c else "")


def _layered(part: Tensor, layers: int) -> Tensor | None:
    """(layers, rows, width) of what torch keeps with or without its batch and layers; None for other shapes."""
    if part.ndim == 3:
        return part
    if part.ndim == 2:
        return part[None] if layers == 1 else part[:, None]
    return part[None, None] if part.ndim == 1 and layers == 1 else None


def _tensors(path: Path) -> dict[str, Tensor]:
    kind, shown = kind_of(path, FLAG), safe_text(path)
    if kind == "npy":
        return {"state": _from_numpy(open_npy(path), shown)}
    if kind == "npz":
        return {name: _from_numpy(read_npz(path, name), shown) for name in npz_names(path)}
    named = named_tensors(load_torch(path, FLAG, kind))
    return {name: floats(tensor, name, shown) for name, tensor in named.items()}


def _from_numpy(values: NDArray[Any], shown: str) -> Tensor:
    if values.dtype.kind not in "fiu":
        raise UsageError(f"{FLAG} '{shown}' holds {safe_text(values.dtype, 40)}; save a state of real numbers")
    return torch.from_numpy(values.astype(np.float64))


def _ordered(found: Mapping[str, Tensor], shown: str) -> list[Tensor]:
    """The one tensor, or h and c by their first letters or their places."""
    if len(found) == 1:
        return list(found.values())
    by_letter = {name.rpartition(".")[2][:1].lower(): tensor for name, tensor in found.items()}
    for pair in ("hc", "01"):
        if len(found) == 2 and set(by_letter) == set(pair):
            return [by_letter[letter] for letter in pair]
    names = ", ".join(safe_text(name, 40) for name in list(found)[:8]) or "none"
    raise UsageError(f"{FLAG} '{shown}' holds these tensors: {names}; save the state alone, or h and c")


class FromState(nn.Module):
    """A module of torch.nn that starts from given states, as the analysed cells do."""

    def __init__(self, module: nn.Module, cells: Sequence[Cell]) -> None:
        """Take the module and the cells made by `started`."""
        super().__init__()
        self.module, self.cells = module, [cell for cell in cells if isinstance(cell, StartedCell)]

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, object]:
        """What the module returns for x (batch, T, features)."""
        states = [rows_for(cell.first, len(x), cell.item) for cell in self.cells]
        wide = [cell.output_size for cell in self.cells]
        h = torch.stack([state[:, :n] for state, n in zip(states, wide, strict=True)])
        if not isinstance(self.module, nn.RNNBase):
            found: Tensor = self.module(x, h[0])
            return found
        if isinstance(self.module, nn.LSTM):
            c = torch.stack([state[:, n:] for state, n in zip(states, wide, strict=True)])
            output: tuple[Tensor, object] = self.module(x, (h, c))
            return output
        plain: tuple[Tensor, object] = self.module(x, h)
        return plain

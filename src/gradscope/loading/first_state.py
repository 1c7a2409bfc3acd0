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
from gradscope.files.paths import existing_file, kind_of
from gradscope.files.tensors import floats, named_tensors
from gradscope.files.torch_file import load_torch
from gradscope.text import safe_text

FLAG = "--state"


def first_states(name: str, sizes: Sequence[tuple[int, int]] | None) -> list[Tensor]:
    """s_0 of every layer, each (1, h + c): one state, from which every sequence starts.

    Args:
        name: the file. All of s_0 side by side, layer by layer and h before c, as (size,) or (1, size); or as torch
            keeps it: h (layers, 1, H), and for an LSTM beside it c.
        sizes: the widths of h and c (0: none) of each layer; None for one state of any size.

    Raises:
        UsageError: the file cannot be read, or its numbers are no state of these layers.
    """
    path, shown = existing_file(name, FLAG), safe_text(name)
    parts = _ordered(_tensors(path), shown)
    for part in parts:
        if not bool(part.isfinite().all()):
            raise UsageError(f"{FLAG} '{shown}' holds NaN or Inf; save a state of finite numbers")
    if sizes is None:
        sizes = [(parts[0].shape[-1] if len(parts) == 1 and parts[0].ndim else 0, 0)]
    total = sum(h + c for h, c in sizes)
    if len(parts) == 1 and parts[0].numel() == total == parts[0].shape[-1:].numel():
        return list(parts[0].reshape(1, -1).split([h + c for h, c in sizes], -1))
    widths = [[h for h, _ in sizes]] + [[c for _, c in sizes]] * any(c for _, c in sizes)
    layered = [_layered(part, len(sizes)) for part in parts]
    if len(layered) != len(widths) or any(
        part is None or {(1, width) for width in wide} != {tuple(part.shape[1:])}
        for part, wide in zip(layered, widths, strict=True)
    ):
        found = " and ".join(str(tuple(part.shape)) for part in parts)
        raise UsageError(f"{FLAG} '{shown}' has shape {found}; {_wanted(sizes, total)}")
    each = [part.unbind(0) for part in layered if part is not None]
    return [torch.cat(layer, -1) for layer in zip(*each, strict=True)]


def _wanted(sizes: Sequence[tuple[int, int]], total: int) -> str:
    h, c = sizes[0]
    whole = f"one state for all sequences is needed: ({total},)"
    return f"{whole}, or h ({len(sizes)}, 1, {h})" + (f" and c ({len(sizes)}, 1, {c})" if c else "")


def _layered(part: Tensor, layers: int) -> Tensor | None:
    """(layers, 1, width) of what torch keeps with or without its batch; None for other shapes."""
    if part.ndim == 1 and layers == 1:
        return part[None, None]
    found = part[:, None] if part.ndim == 2 else part
    return found if found.ndim == 3 and len(found) == layers else None


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
    """A module of torch.nn (or a layer over (x, h)) that starts from the state given, as the analysed cells do."""

    def __init__(self, module: nn.Module, start: Sequence[Tensor]) -> None:
        """Take the module and s_0 of every layer, each (1, h + c)."""
        super().__init__()
        self.module, self.start = module, tuple(start)
        self.stands_for = str(getattr(module, "stands_for", f"torch.nn.{type(module).__name__}"))

    def forward(self, x: Tensor) -> Any:
        """What the module returns for x (batch, T, features)."""
        joint = torch.stack([state.expand(len(x), -1) for state in self.start])
        if not isinstance(self.module, nn.RNNBase):
            return self.module(x, joint[0])
        width = self.module.proj_size or self.module.hidden_size
        h, c = joint[..., :width].contiguous(), joint[..., width:].contiguous()
        return self.module(x, (h, c) if isinstance(self.module, nn.LSTM) else h)

"""Recurrences in a file of weights, found by the keys that torch.nn gives its parameters, and built."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from gradscope.errors import UsageError
from gradscope.files.tensors import floats
from gradscope.isolation.caller_state import own_random_numbers
from gradscope.registry import unknown
from gradscope.text import safe_text

RAW = re.compile(r"(?:(.*)\.)?(weight_(?:hh|ih)_l\d{1,3}(?:_reverse)?)_raw", re.DOTALL)
SAID = "weight-dropped: read without its dropout (weight_hh_l0_raw)"


def undropped(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], frozenset[str]]:
    """The tensors with every raw weight under its plain name, and the names of the recurrences that had one.

    The wrapper keeps the raw weight beside the module that it wraps (fastai: `rnns.0.weight_hh_l0_raw` and
    `rnns.0.module.weight_ih_l0`) or inside it (`rnns.0.module.weight_hh_l0_raw`).
    """
    found, groups = dict(tensors), set()
    for key in tensors:
        if match := RAW.fullmatch(key):
            prefix, name = match.groups()
            place = f"{prefix}." if prefix else ""
            wrapped = f"{place}module."
            inside = any(other.startswith(f"{wrapped}weight_") for other in tensors)
            place = wrapped if inside else place
            found[place + name] = found.pop(key)
            groups.add(place.rstrip("."))
    return found, frozenset(groups)


TorchKind = Literal["RNN", "GRU", "LSTM"]
KINDS: Mapping[int, TorchKind] = {1: "RNN", 3: "GRU", 4: "LSTM"}
"""Rows of weight_hh per hidden unit -> what it is."""

RECURRENT_KEY = re.compile(r"(?:(.*)\.)?((?:weight|bias)_(?:ih|hh|hr))(?:_l(\d{1,3}))?(_reverse)?", re.DOTALL)


@dataclass(frozen=True, eq=False)
class Group:
    """Keys that belong together, not yet understood."""

    name: str
    """What stands before `weight_ih_l0`; empty when nothing does."""
    tensors: dict[str, Tensor]
    """`weight_ih_l0` and so on (a cell's `weight_ih` too) -> tensor."""

    @property
    def shown(self) -> str:
        """The name to show and to give as --key; `.` for the top of the file."""
        return safe_text(self.name, 60) or "."


@dataclass(frozen=True, eq=False)
class Recurrence:
    """A recurrence of torch.nn, as its weights tell it."""

    name: str
    kind: TorchKind
    input_size: int
    hidden: int
    layers: int
    projection: int
    """Features of the projected output of an LSTM; 0 without."""
    bias: bool
    bidirectional: bool
    weights: dict[str, Tensor]
    """`weight_ih_l0` and so on -> tensor, all of them and no others."""

    def __str__(self) -> str:
        """`LSTM, 40 -> 256, 3 layers`."""
        parts = [f"{self.kind}, {self.input_size} -> {self.hidden}"]
        parts += [f"{self.layers} layers"] if self.layers > 1 else []
        parts += [f"projected to {self.projection}"] if self.projection else []
        return ", ".join(parts + (["bidirectional"] if self.bidirectional else []))


def groups(tensors: Mapping[str, Tensor]) -> list[Group]:
    """Every set of keys that looks like a recurrence, in the order of the file."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if match := RECURRENT_KEY.fullmatch(key):
            prefix, part, layer, reverse = match.groups()
            name = f"{part}_l{int(layer or 0)}{reverse or ''}"
            found.setdefault(prefix or "", {})[name] = tensor
    return [Group(prefix, parts) for prefix, parts in found.items()]


def choose(found: list[Group], key: str | None, shown: str) -> Group:
    """The group that `key` names: all of its name, or its last parts; the only one without a key.

    Raises:
        UsageError: none, several, or no such key; the message lists what there is.
    """
    names = [group.shown for group in found]
    if key is None:
        if len(found) == 1:
            return found[0]
        raise UsageError(f"'{shown}' holds {len(found)} recurrences; choose one with --key ({_listed(found)})")
    whole = [group for group in found if group.name == key.rstrip(".")]
    for chosen in (whole, [group for group in found if group.name.endswith("." + key.rstrip("."))]):
        if len(chosen) == 1:
            return chosen[0]
        if chosen:
            raise UsageError(f"'{shown}' holds several under --key {safe_text(key, 60)} ({_listed(chosen)}); say more")
    raise UsageError(f"'{shown}': {unknown('key', key, names)}")


def _listed(found: list[Group], most: int = 8) -> str:
    more = f", {len(found) - most} more" if len(found) > most else ""
    return ", ".join(group.shown for group in found[:most]) + more


def understand(group: Group, shown: str) -> Recurrence:
    """Kind, sizes, layers and directions of a group, with every shape held to them.

    Raises:
        UsageError: keys are missing or too many, or a shape fits no RNN, GRU or LSTM.
    """
    tensors, what = group.tensors, f"'{group.shown}' in '{shown}'"
    layers = 1 + max(int(key.split("_l")[1].removesuffix("_reverse")) for key in tensors)
    bidirectional = any(key.endswith("_reverse") for key in tensors)
    projected, bias = "weight_hr_l0" in tensors, "bias_ih_l0" in tensors or "bias_hh_l0" in tensors
    parts = ["weight_ih", "weight_hh"] + ["bias_ih", "bias_hh"] * bias + ["weight_hr"] * projected
    wanted = [f"{part}_l{n}{way}" for n in range(layers) for way in _ways(bidirectional) for part in parts]
    _same_keys(wanted, tensors, what)
    weights = {key: floats(tensors[key], f"{group.name}.{key}".lstrip("."), shown) for key in wanted}
    rows, seen, inputs = _sizes(weights, what)
    hidden = weights["weight_hr_l0"].shape[1] if projected else seen
    kind = KINDS.get(rows // hidden) if hidden and rows % hidden == 0 else None
    if kind is None or (projected and kind != "LSTM"):
        raise UsageError(
            f"{what} has weight_hh of shape ({rows}, {seen}); {hidden} units need {hidden} rows (RNN), "
            f"{3 * hidden} (GRU) or {4 * hidden} (LSTM)"
        )
    found = Recurrence(group.name, kind, inputs, hidden, layers, seen if projected else 0, bias, bidirectional, weights)
    _same_shapes(found, rows, seen, what)
    return found


def _ways(bidirectional: bool) -> tuple[str, ...]:
    return ("", "_reverse") if bidirectional else ("",)


def _same_keys(wanted: list[str], tensors: Mapping[str, Tensor], what: str) -> None:
    missing, extra = [key for key in wanted if key not in tensors], [key for key in tensors if key not in wanted]
    if missing:
        raise UsageError(f"{what} has no {missing[0]} beside {next(iter(tensors))}; all keys of torch.nn are needed")
    if extra:
        raise UsageError(f"{what} has {extra[0]} and not what belongs to it; all keys of torch.nn are needed")


def _sizes(weights: Mapping[str, Tensor], what: str) -> tuple[int, int, int]:
    """Rows and columns of weight_hh, and features of the input."""
    for key, tensor in weights.items():
        dimensions = 1 if key.startswith("bias") else 2
        if tensor.ndim != dimensions or 0 in tensor.shape:
            raise UsageError(f"{what} has {key} of shape {tuple(tensor.shape)}; expected {dimensions} dimensions")
    rows, seen = weights["weight_hh_l0"].shape
    return rows, seen, weights["weight_ih_l0"].shape[1]


def _same_shapes(found: Recurrence, rows: int, seen: int, what: str) -> None:
    width = seen * len(_ways(found.bidirectional))
    for key, tensor in found.weights.items():
        columns = found.input_size if "_l0" in key else width
        shapes = {
            "weight_ih": (rows, columns),
            "weight_hh": (rows, seen),
            "weight_hr": (seen, found.hidden),
            "bias_ih": (rows,),
            "bias_hh": (rows,),
        }
        wanted = shapes[key.split("_l")[0]]
        if tuple(tensor.shape) != wanted:
            raise UsageError(f"{what} has {key} of shape {tuple(tensor.shape)}; an {found.kind} needs {wanted}")


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

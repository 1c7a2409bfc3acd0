"""Recurrent layers of Keras: transposed kernels, gates i, f, c, o and z, r, h, and activations by name.

Keras' layouts: https://keras.io/api/layers/recurrent_layers/; CuDNN layers keep their blocks transposed once more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradscope.errors import UsageError
from gradscope.files.keras_file import Arrays, KerasFile
from gradscope.loading.foreign_layer import ForeignLayer, pick
from gradscope.models.other_frameworks import SIGMOID, TANH, Activation, Formula
from gradscope.text import safe_text

KINDS: Mapping[str, str] = {
    "SimpleRNN": "RNN",
    "GRU": "GRU",
    "LSTM": "LSTM",
    "CuDNNGRU": "GRU",
    "CuDNNLSTM": "LSTM",
    "SimpleRNNCell": "RNN",
    "GRUCell": "GRU",
    "LSTMCell": "LSTM",
}
BY_GATES: Mapping[int, str] = {1: "RNN", 3: "GRU", 4: "LSTM"}
PLAIN = ("tanh", "sigmoid", "relu", "linear", "softsign", "softplus", "elu", "selu")
Settings = Mapping[str, Any]


def keras_layer(file: KerasFile, key: str | None, nonlinearity: str | None, shown: str) -> ForeignLayer:
    """The recurrent layer that `key` names.

    Raises:
        UsageError: none or several, an activation that is not known, or shapes that fit no layer.
    """
    named = _by_name(file)
    if not named:
        raise UsageError(
            f"'{shown}' holds no recurrent layer of Keras{_custom(file)}; a SimpleRNN, GRU or LSTM is needed"
        )
    way = ""
    if key is not None and (match := re.fullmatch(r"(.+)/(forward|backward)", key)):
        key, way = match.groups()
    name = list(named)[pick(list(named), key, shown)]
    cells, settings = named[name]
    if any(_is_stacked(file, cell) for cell in cells):
        raise UsageError(
            f"'{safe_text(name, 60)}' in '{shown}' is a stack of cells (StackedRNNCells), which is not read; make each "
            "cell an RNN layer of its own, RNN(cell, return_sequences=True), or analyse its Jacobians as a chain.npy"
        )
    layers = [_layer(name, cell, settings, file.version, nonlinearity, shown) for cell in cells]
    if len(layers) == 1:
        return layers[0]
    first, second = layers[0], replace(layers[1], is_backwards=not layers[0].is_backwards)
    if way:
        return second if way == "backward" else first
    return replace(first, backward=second.forward, notes=(*first.notes, *_merged(settings)))


def recurrent_names(file: KerasFile) -> list[str]:
    """Names of the recurrent layers, as `key` takes them, in the order of the model where the file tells it."""
    order = [str(layer["config"].get("name")) for layer in file.layers]
    return sorted(_by_name(file), key=lambda name: order.index(name) if name in order else len(order))


def _custom(file: KerasFile) -> str:
    """Classes of the configuration that are not Keras' own: named, never imported."""
    names = [
        str(layer.get("class_name"))
        for layer in file.layers
        if layer.get("registered_name") not in (None, "") or layer.get("class_name") == "Lambda"
    ]
    return f" ({', '.join(safe_text(name, 40) for name in names[:4])} is code, which is not run)" if names else ""


def _by_name(file: KerasFile) -> dict[str, tuple[list[Arrays], Settings | None]]:
    """Layer -> its cells (forward first, then backward) and its entry in the configuration."""
    configured = {str(layer["config"].get("name")): layer for layer in file.layers if _kind(layer)}
    found: dict[str, tuple[list[Arrays], Settings | None]] = {}
    fallback = _in_order(file, configured)
    for cell in file.arrays:
        parts = cell.place.split("/")
        name = next((part for part in (cell.named, *reversed(parts)) if part in configured), None)
        name = name or fallback.get(_around(cell.place)) or cell.named or _around(cell.place)
        found.setdefault(name, ([], configured.get(name)))[0].append(cell)
    for cells, _ in found.values():
        cells.sort(key=lambda cell: "backward" in cell.place.rpartition("/")[0])
    return found


def _is_stacked(file: KerasFile, cell: Arrays) -> bool:
    """Whether a cell is one of several that an RNN runs one after the other in every step."""
    parts = cell.place.split("/")
    named = {
        str(layer["config"].get("name")) for layer in file.layers if '"StackedRNNCells"' in json.dumps(_own(layer))
    }
    return "cells" in parts or any("stacked_rnn_cells" in part for part in parts) or not named.isdisjoint(parts)


def _around(place: str) -> str:
    """The layer's own folder: without its cell, its direction and the folders all models have."""
    inner = re.sub(r"/(forward|backward)_[^/]*(/.*)?$|/cell$|/[^/]*_cell(_\d+)?$", "", place)
    return re.sub(r"^(model_weights|_?layers)/", "", inner)


def _in_order(file: KerasFile, configured: Mapping[str, Settings]) -> dict[str, str]:
    """Folders that early versions of Keras 3 name after classes (`lstm`, `lstm_1`) -> the layers' names."""
    seen: dict[str, int] = {}
    found = {}
    for name, layer in configured.items():
        kind = (
            re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", str(layer["class_name"])).lower().replace("simplernn", "simple_rnn")
        )
        number = seen.get(kind, 0)
        seen[kind] = number + 1
        found[f"{kind}_{number}" if number else kind] = name
    return found


def _kind(layer: Settings) -> str | None:
    """`RNN`, `GRU` or `LSTM`; also of what is wrapped by Bidirectional or run by RNN(cell)."""
    inner = _own(layer)
    return KINDS.get(str(inner.get("class_name"))) if inner else None


def _own(layer: Settings) -> Settings | None:
    """The entry of the recurrence itself."""
    config, kind = layer["config"], layer["class_name"]
    inner = config.get("layer") if kind == "Bidirectional" else config.get("cell") if kind == "RNN" else layer
    return inner if isinstance(inner, dict) and isinstance(inner.get("config"), dict) else None


def _merged(layer: Settings | None) -> tuple[str, ...]:
    mode = layer["config"].get("merge_mode", "concat") if layer else "concat"
    return () if mode == "concat" else (f"its directions are merged by {safe_text(mode, 20)}; shown side by side",)


def _layer(
    name: str, cell: Arrays, layer: Settings | None, version: str, nonlinearity: str | None, shown: str
) -> ForeignLayer:
    hidden, width = cell.parts["recurrent"].shape
    own = _own(layer) if layer else None
    kind = KINDS[str(own["class_name"])] if own else BY_GATES[width // hidden]
    if BY_GATES[width // hidden] != kind:
        raise UsageError(f"'{safe_text(name, 60)}' in '{shown}' is a {kind} with {width} columns; get the file again")
    formula, notes = _formula(kind, cell, own, version, nonlinearity, shown)
    # Of an RNN around a cell, the layer around it says so.
    around = [one["config"] for one in (layer, own) if one]
    turned = any(bool(config.get("go_backwards")) for config in around)
    return ForeignLayer(name, formula, _weights(kind, cell, own, shown), notes=notes, is_backwards=turned)


def _formula(
    kind: str, cell: Arrays, own: Settings | None, version: str, nonlinearity: str | None, shown: str
) -> tuple[Formula, tuple[str, ...]]:
    bias = cell.parts.get("bias")
    if own is None:
        inner = Activation(nonlinearity or "tanh") if kind == "RNN" else TANH
        said = (
            "tanh is assumed, weights do not tell; --nonlinearity relu for the other"
            if kind == "RNN"
            else ("sigmoid gates and tanh are assumed, a file of weights does not tell; a .keras file does")
        )
        first = kind == "GRU" and bias is not None and bias.ndim == 1 and len(bias) == cell.parts["recurrent"].shape[1]
        return Formula(kind, SIGMOID, inner, inner if kind == "LSTM" else TANH, first), (said,)
    config, cudnn = own["config"], str(own["class_name"]).startswith("CuDNN")
    inner = TANH if cudnn else _activation(config.get("activation", "tanh"), version, shown)
    gate = (
        SIGMOID
        if cudnn or kind == "RNN"
        else _activation(config.get("recurrent_activation", "sigmoid"), version, shown)
    )
    old = version.startswith(("0", "1", "2"))
    after = cudnn or bool(config.get("reset_after", not old))
    notes: tuple[str, ...] = ()
    if "hard_sigmoid" in (gate.name, inner.name):
        notes += (f"hard_sigmoid of Keras {version.partition('.')[0] or '3 (assumed)'}: {_written(gate)}",)
    if kind == "GRU" and not after:
        notes += ("it resets the state before the matrix product (reset_after=False)",)
    return Formula(kind, gate, inner, inner if kind == "LSTM" else TANH, kind == "GRU" and not after), notes


def _written(gate: Activation) -> str:
    return "z / 6 + 0.5" if abs(gate.alpha - 1 / 6) < 1e-9 else f"{gate.alpha:g} z + {gate.beta:g}"


def _activation(given: Any, version: str, shown: str) -> Activation:
    """By its name; Keras 3 changed the slope of hard_sigmoid from 0.2 to 1/6."""
    name = given.get("config", given.get("class_name")) if isinstance(given, dict) else given
    name = "linear" if name is None else name
    if name == "hard_sigmoid":
        return Activation(name, 0.2 if version.startswith(("0", "1", "2")) else 1 / 6, 0.5)
    if name not in PLAIN:
        raise UsageError(
            f"'{shown}' has the activation '{safe_text(name, 40)}', which is not computed here and whose code is not "
            f"run (known: {', '.join((*PLAIN, 'hard_sigmoid'))}); analyse its Jacobians as a chain.npy"
        )
    return Activation(str(name))


def _weights(kind: str, cell: Arrays, own: Settings | None, shown: str) -> dict[str, Tensor]:
    kernel, recurrent, bias = cell.parts["kernel"], cell.parts["recurrent"], cell.parts.get("bias")
    gates = recurrent.shape[1] // recurrent.shape[0]
    doubled = bias is not None and bias.ndim == 1 and len(bias) == 2 * recurrent.shape[1]
    cudnn = str(own["class_name"]).startswith("CuDNN") if own else doubled
    order = _rzn if kind == "GRU" else _as_it_is
    if cudnn:
        size, hidden = kernel.shape[0], recurrent.shape[0]
        kernel = np.hstack([block.ravel().reshape(hidden, size).T for block in np.hsplit(kernel, gates)])
        recurrent = np.hstack([block.T for block in np.hsplit(recurrent, gates)])
        bias = bias if bias is None or not doubled else bias.reshape(2, -1)
    found = {"weight_ih": order(kernel.T), "weight_hh": order(recurrent.T)}
    if bias is not None:
        pair = bias if bias.ndim == 2 else np.stack([bias, np.zeros_like(bias)])
        if pair.shape != (2, recurrent.shape[1]):
            raise UsageError(
                f"'{safe_text(cell.place, 60)}' in '{shown}' has a bias of {bias.shape}; get the file again"
            )
        found |= {"bias_ih": order(pair[0]), "bias_hh": order(pair[1])}
    return {name: _tensor(value) for name, value in found.items()}


def _as_it_is(rows: NDArray[Any]) -> NDArray[Any]:
    return rows


def _rzn(rows: NDArray[Any]) -> NDArray[Any]:
    """Keras' z, r, h in the order r, z, n of torch."""
    z, r, n = np.split(rows, 3)
    return np.concatenate([r, z, n])


def _tensor(values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64))

"""Recurrent operators of ONNX: gates i, o, f, c and z, r, h; peepholes, clips and activations of the operator.

Source: https://onnx.ai/onnx/operators/ (RNN, GRU, LSTM).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradscope.errors import UsageError
from gradscope.files.onnx_file import Operator, weights_of
from gradscope.loading.foreign_layer import ForeignLayer, pick
from gradscope.models.other_frameworks import Activation, Formula
from gradscope.text import safe_text

GATES: Mapping[str, tuple[int, ...]] = {"RNN": (0,), "GRU": (1, 0, 2), "LSTM": (0, 2, 3, 1)}
"""Where torch's gates stand in ONNX: r, z, n in z, r, h; i, f, g, o in i, o, f, c."""
PEEPHOLES = (0, 2, 1)
"""i, f, o in i, o, f."""
DEFAULTS: Mapping[str, tuple[str, ...]] = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh")}
DEFAULTS = {**DEFAULTS, "LSTM": ("Sigmoid", "Tanh", "Tanh")}
ACTIVATIONS: Mapping[str, tuple[str, tuple[float, ...]]] = {
    "tanh": ("tanh", ()),
    "sigmoid": ("sigmoid", ()),
    "relu": ("relu", ()),
    "softsign": ("softsign", ()),
    "softplus": ("softplus", ()),
    "elu": ("elu", (1.0,)),
    "leakyrelu": ("leaky_relu", (0.01,)),
    "thresholdedrelu": ("thresholded_relu", (1.0,)),
    "hardsigmoid": ("hard_sigmoid", (0.2, 0.5)),
    "scaledtanh": ("scaled_tanh", (1.0, 1.0)),
    "affine": ("affine", (1.0, 0.0)),
}
"""ONNX's name, in small letters -> ours, and the alpha and beta that it takes."""


def onnx_layer(operators: list[Operator], key: str | None, shown: str) -> ForeignLayer:
    """The operator that `key` names.

    Raises:
        UsageError: none or several, weights that are not stored, or an activation that is not known.
    """
    if not operators:
        raise UsageError(
            f"'{shown}' holds no RNN, GRU or LSTM of ONNX; a recurrence written as a Loop has no weights "
            "of its own: analyse its Jacobians as a chain.npy"
        )
    names: list[str] = []
    wanted, _, way = key.rpartition("/") if key and key.endswith(("/forward", "/backward")) else (key, "", "")
    for operator in operators:
        names.append(operator.name if operator.name not in names else f"{operator.name}#{len(names)}")
    place = pick(names, wanted, shown)
    operator, name = operators[place], names[place]
    weights = weights_of(operator, shown)
    ways = 2 if _text(operator.settings.get("direction")) == "bidirectional" else 1
    _same_ways(operator, weights, ways, shown)
    formulas = [_formula(operator, n, ways, shown) for n in range(ways)]
    parts = [_weights(operator.kind, {role: value[n] for role, value in weights.items()}) for n in range(ways)]
    if way and ways == 2:
        n = int(way == "backward")
        return ForeignLayer(f"{name}/{way}", formulas[n], parts[n], notes=_notes(operator), is_backwards=bool(n))
    if ways == 2 and formulas[0] != formulas[1]:
        raise UsageError(
            f"'{safe_text(name, 60)}' in '{shown}' has other activations in each direction; choose one "
            f"with --key {safe_text(name, 60)}/forward or /backward"
        )
    turned = _text(operator.settings.get("direction")) == "reverse"
    return ForeignLayer(name, formulas[0], parts[0], parts[1] if ways == 2 else None, _notes(operator), turned)


def _same_ways(operator: Operator, weights: Mapping[str, NDArray[Any]], ways: int, shown: str) -> None:
    gates = len(GATES[operator.kind])
    for role, value in weights.items():
        dimensions = 3 if role in ("W", "R") else 2
        hidden = weights["R"].shape[-1]
        rows = {"W": gates * hidden, "R": gates * hidden, "B": 2 * gates * hidden, "P": 3 * hidden}[role]
        if value.ndim != dimensions or value.shape[0] != ways or value.shape[1] != rows or 0 in value.shape:
            raise UsageError(
                f"{role} of '{safe_text(operator.name, 60)}' in '{shown}' has shape {value.shape}; "
                f"({ways}, {rows}{', n' if dimensions == 3 else ''}) is needed; get the file again"
            )


def _notes(operator: Operator) -> tuple[str, ...]:
    notes = []
    if operator.inside:
        notes.append(f"it stands in the body of a {safe_text(operator.inside, 20)}: analysed by itself")
    if "initial_h" in operator.given or "initial_c" in operator.given:
        notes.append("the graph gives it a first state; analysed from zero (--state FILE for another)")
    if float(operator.settings.get("clip", 0.0)):
        notes.append(f"what goes into its activations is clipped at {float(operator.settings['clip']):g}")
    return tuple(notes)


def _formula(operator: Operator, way: int, ways: int, shown: str) -> Formula:
    kind, settings = operator.kind, operator.settings
    each = len(DEFAULTS[kind])
    given = [_text(one) for one in settings.get("activations", ())] or list(DEFAULTS[kind]) * ways
    if kind == "RNN" and len(given) > ways:  # the schema's own default names two
        given = given[:ways]
    if len(given) != each * ways:
        raise UsageError(
            f"'{safe_text(operator.name, 60)}' in '{shown}' has {len(given)} activations; {each * ways} are needed"
        )
    alphas, betas = list(settings.get("activation_alpha", ())), list(settings.get("activation_beta", ()))
    functions = [_activation(name, alphas, betas, shown) for name in given][way * each : (way + 1) * each]
    clip = float(settings.get("clip", 0.0)) or None
    if kind == "RNN":
        return Formula(kind, inner=functions[0], clip=clip)
    if kind == "GRU":
        return Formula(
            kind, functions[0], functions[1], reset_first=not settings.get("linear_before_reset", 0), clip=clip
        )
    gate, inner, outer = functions
    return Formula(kind, gate, inner, outer, coupled=bool(settings.get("input_forget", 0)), clip=clip)


def _activation(name: str, alphas: list[float], betas: list[float], shown: str) -> Activation:
    """Alphas and betas are a queue: each function takes what it needs from the front."""
    if name.lower() not in ACTIVATIONS:
        raise UsageError(f"'{shown}' has the activation '{safe_text(name, 40)}', which is not one of ONNX")
    ours, defaults = ACTIVATIONS[name.lower()]
    values = [queue.pop(0) if queue else default for queue, default in zip((alphas, betas), defaults, strict=False)]
    return Activation(ours, *(float(value) for value in values))


def _weights(kind: str, parts: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    found = {"weight_ih": _ordered(parts["W"], GATES[kind]), "weight_hh": _ordered(parts["R"], GATES[kind])}
    if "B" in parts:
        of_input, of_state = np.split(parts["B"], 2)
        found |= {"bias_ih": _ordered(of_input, GATES[kind]), "bias_hh": _ordered(of_state, GATES[kind])}
    if "P" in parts and kind == "LSTM":
        found["peephole"] = _ordered(parts["P"], PEEPHOLES).reshape(3, -1)
    return found


def _ordered(rows: NDArray[Any], order: tuple[int, ...]) -> Tensor:
    blocks = np.split(rows, len(order))
    return torch.from_numpy(np.concatenate([blocks[place] for place in order]))


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")

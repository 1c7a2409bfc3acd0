"""Files of ONNX: the recurrent operators of the graph and the constants they take. Nothing is run."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradscope.errors import UsageError
from gradscope.files.torch_file import reason
from gradscope.text import safe_text

OPERATORS = ("RNN", "GRU", "LSTM")
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
WEIGHTS = ("W", "R", "B", "P")
DEEPEST = 8


@dataclass(frozen=True, eq=False)
class Operator:
    """One recurrent operator."""

    name: str
    kind: str
    settings: dict[str, Any]
    """Attributes by name."""
    given: dict[str, str]
    """Role (`W`, `initial_h` ...) -> name of the value it takes."""
    constants: dict[str, Any]
    """Name -> TensorProto, of all constants in sight."""
    computed: dict[str, str]
    """Name of a value -> the operator that computes it."""
    folder: Path
    inside: str
    """The operator (If, Loop, Scan) whose body it stands in; empty at the top."""


def read_onnx(path: Path) -> list[Operator]:
    """The recurrent operators of a graph, those inside bodies too.

    Raises:
        UsageError: onnx is not installed, or the file is damaged.
    """
    shown = safe_text(path)
    if importlib.util.find_spec("onnx") is None:
        raise UsageError(f"'{shown}' is an ONNX file; install onnx (the extra [onnx]) to read it")
    import onnx

    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
        found = list(_operators(model.graph, {}, path.parent, ""))
    except Exception as error:  # protobuf raises its own classes, and numpy's on attributes
        raise UsageError(f"'{shown}' is damaged ({reason(error)}); it was cut or altered, get it again") from error
    return found


def _operators(graph: Any, outer: dict[str, Any], folder: Path, inside: str, depth: int = 0) -> Iterator[Operator]:
    import onnx

    constants = outer | {tensor.name: tensor for tensor in graph.initializer}
    computed: dict[str, str] = {}
    for node in graph.node:
        settings = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Constant" and "value" in settings and node.output:
            constants[node.output[0]] = settings["value"]
        elif node.op_type == "Identity" and node.input and node.output and node.input[0] in constants:
            constants[node.output[0]] = constants[node.input[0]]
        else:
            computed |= dict.fromkeys(node.output, node.op_type)
        if node.op_type in OPERATORS and node.domain in ("", "ai.onnx"):
            given = {role: value for role, value in zip(INPUTS, node.input, strict=False) if value}
            name = node.name or (node.output[0] if node.output else "") or node.op_type
            yield Operator(name, node.op_type, settings, given, constants, computed, folder, inside)
        for value in settings.values():
            if isinstance(value, onnx.GraphProto) and depth < DEEPEST:
                yield from _operators(value, constants, folder, node.op_type, depth + 1)


def weights_of(operator: Operator, shown: str) -> dict[str, NDArray[np.float64]]:
    """W, R and, where there are any, B and P.

    Raises:
        UsageError: computed inside the graph, given at run time, damaged, or outside and not there.
    """
    found = {}
    for role in WEIGHTS:
        value = operator.given.get(role)
        if value is None:
            continue
        what = f"{role} of '{safe_text(operator.name, 60)}' in '{shown}'"
        if value not in operator.constants:
            source = operator.computed.get(value)
            how = f"computed by {safe_text(source, 30)}" if source else "given at run time"
            remedy = "export with constant folding (do_constant_folding=True, or simplify the graph)"
            raise UsageError(f"{what} is {how}, not stored; {remedy}")
        found[role] = _numbers(operator.constants[value], operator.folder, what)
    if missing := {"W", "R"} - set(found):
        raise UsageError(f"'{safe_text(operator.name, 60)}' in '{shown}' has no {min(missing)}; export it again")
    return found


def _numbers(tensor: Any, folder: Path, what: str) -> NDArray[np.float64]:
    import onnx

    if tensor.data_type not in _floats(onnx):
        kind = onnx.TensorProto.DataType.Name(tensor.data_type) if 0 < tensor.data_type < 17 else tensor.data_type
        raise UsageError(f"{what} holds {kind}, weights are floats; export the model before it is quantized")
    try:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            whole = onnx.TensorProto()
            whole.CopyFrom(tensor)
            whole.raw_data = _outside(tensor, folder, what)
            whole.data_location = onnx.TensorProto.DEFAULT
            del whole.external_data[:]
            tensor = whole
        with np.errstate(invalid="ignore"):  # a NaN that signals; it is found later, where finiteness is checked
            return np.asarray(onnx.numpy_helper.to_array(tensor)).astype(np.float64)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{what} is damaged ({reason(error)}); it was cut or altered, get it again") from error


def _floats(onnx: Any) -> tuple[int, ...]:
    kinds = onnx.TensorProto
    return (kinds.FLOAT, kinds.DOUBLE, kinds.FLOAT16, kinds.BFLOAT16)


def _outside(tensor: Any, folder: Path, what: str) -> bytes:
    """The bytes of a tensor that lies in a file beside the model, and nowhere else."""
    about = {entry.key: entry.value for entry in tensor.external_data}
    place = about.get("location", "")
    target = (folder / place).resolve()
    if not place or not target.is_relative_to(folder.resolve()):
        raise UsageError(f"{what} lies in '{safe_text(place, 60)}', outside the model's folder; do not use it")
    if not target.is_file():
        raise UsageError(f"{what} lies in '{safe_text(place, 60)}', which is not there; copy it beside the model")
    start, length = int(about.get("offset", 0)), int(about.get("length", -1))
    size = target.stat().st_size
    length = size - start if length < 0 else length
    if start < 0 or start + length > size:
        raise UsageError(f"{what} claims more bytes than '{safe_text(place, 60)}' has; get both files again")
    with target.open("rb") as file:
        file.seek(start)
        found: bytes = file.read(length)
        return found

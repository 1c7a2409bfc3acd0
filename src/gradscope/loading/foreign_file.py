"""A file of another framework -> the recurrent layer that was asked for."""

from __future__ import annotations

from pathlib import Path

from gradscope.files.foreign.keras_file import read_keras
from gradscope.files.foreign.onnx_file import read_onnx
from gradscope.files.sniff import Kind
from gradscope.loading.foreign_layer import ForeignLayer
from gradscope.loading.keras_layers import keras_layer
from gradscope.loading.onnx_layers import onnx_layer

FOREIGN: tuple[Kind, ...] = ("Keras", "HDF5", "ONNX")


def foreign_layer(path: Path, kind: Kind, key: str | None, nonlinearity: str | None, shown: str) -> ForeignLayer:
    """The recurrence that `key` names in a file of kind `kind`.

    Raises:
        UsageError: it cannot be read, or holds none or several.
    """
    if kind == "ONNX":
        return onnx_layer(read_onnx(path), key, shown)
    return keras_layer(read_keras(path, kind), key, nonlinearity, shown)

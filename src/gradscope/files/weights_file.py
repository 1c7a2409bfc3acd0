"""Tensors by name out of any file that holds weights as data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradscope.errors import UsageError
from gradscope.files.foreign.msgpack_file import load_msgpack
from gradscope.files.numpy_file import npz_names, read_npz
from gradscope.files.paths import parts_of
from gradscope.files.safetensors_file import load_safetensors
from gradscope.files.sniff import Kind, kind_of
from gradscope.files.tensors import named_tensors
from gradscope.files.torch_file import load_torch
from gradscope.text import safe_text

REFUSED: dict[Kind, str] = {
    "LFS pointer": "is a Git LFS pointer, not the file itself; fetch it with git lfs pull",
    "HTML": "is a web page, most likely an error page of the download; get the file again",
    "Keras": "is a Keras file, read as a model of its own; give the weights of torch here",
    "HDF5": "is an HDF5 file, as Keras writes, read as a model of its own; give the weights of torch here",
    "ONNX": "is an ONNX file, read as a model of its own; give the weights of torch here",
    "zip": "is a zip archive of something else; unpack it and name the file of weights",
    "text": "is text, not weights; name a file of torch.save, safetensors or numpy.savez",
    "unknown": "is no file of weights that can be read; write it with torch.save, safetensors or numpy.savez",
    "npy": "is a single array, not named weights; save them with numpy.savez",
    "TorchScript": "is TorchScript, which runs code when it loads; add --trust if you trust its source, "
    "or give your own class with --weights and a state_dict",
    "pt2": "is an exported program, which can run code when it loads; add --trust if you trust its source, "
    "or give your own class with --weights and a state_dict",
}


def read_weights(path: Path, flag: str, kind: Kind | None = None) -> dict[str, Tensor]:
    """Every tensor by its dotted name; nested dicts are opened, the state of optimizers is left out.

    Of a model that is saved in parts (`model-00001-of-00002.safetensors`) all parts are read.

    Raises:
        WantsCodeError: it holds whole Python objects.
        UsageError: not a file of weights, damaged, or without its other parts; the message says how to go on.
    """
    found: dict[str, Tensor] = {}
    for part in parts_of(path):
        found |= read_part(part, flag, kind if part == path else None)
    return found


def read_part(path: Path, flag: str, kind: Kind | None = None) -> dict[str, Tensor]:
    """The same of one file, even where it is one part of several."""
    kind = kind_of(path, flag) if kind is None else kind
    if kind in REFUSED:
        raise UsageError(f"{flag} '{safe_text(path)}' {REFUSED[kind]}")
    if kind == "safetensors":
        return load_safetensors(path)
    if kind == "msgpack":
        return load_msgpack(path, flag)
    if kind == "npz":
        arrays = {name: read_npz(path, name) for name in npz_names(path)}
        return {name: _tensor(values, path) for name, values in arrays.items() if values.dtype.kind in "fiub"}
    return named_tensors(load_torch(path, flag, kind))


def _tensor(values: NDArray[Any], path: Path) -> Tensor:
    """The array in the byte order of this machine; torch has no long doubles, so they become doubles."""
    if values.dtype.kind == "f":
        values = values.astype(np.float64 if values.dtype.itemsize > 4 else values.dtype.newbyteorder("="))
    elif values.dtype.kind in "iu":
        values = values.astype(np.int64)
    try:
        return torch.from_numpy(np.ascontiguousarray(values))
    except (TypeError, ValueError) as error:
        raise UsageError(f"'{safe_text(path)}' holds {values.dtype} numbers; save x.astype('float32')") from error

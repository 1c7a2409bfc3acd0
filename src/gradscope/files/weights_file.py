"""Tensors by name out of any file that holds weights as data."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradscope.errors import UsageError
from gradscope.files.numpy_file import npz_names, read_npz
from gradscope.files.paths import FileKind, kind_of, parts_of, read_bytes
from gradscope.files.tensors import named_tensors
from gradscope.files.torch_file import load_torch, reason
from gradscope.files.zip_check import first_twice
from gradscope.text import safe_text


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors by name, on the CPU.

    Raises:
        UsageError: damaged, or a name that comes twice.
    """
    shown = safe_text(path)
    try:
        _one_of_each(path, shown)
        return safetensors.torch.load_file(path, device="cpu")
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"'{shown}' is damaged ({reason(error)}); it was cut or altered, get it again") from error


def _one_of_each(path: Path, shown: str) -> None:
    """Of two entries with one name the library silently takes the last."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if (twice := first_twice(name for name, _ in pairs)) is not None:
            raise UsageError(f"'{shown}' holds '{safe_text(twice, 40)}' twice, only one can be meant; save it again")
        return dict(pairs)

    with path.open("rb") as file:
        header = file.read(int.from_bytes(file.read(8), "little"))
    json.loads(header, object_pairs_hook=once)


ARRAY = 1
FLOATS = ("float16", "float32", "float64")


def load_msgpack(path: Path, flag: str) -> dict[str, Tensor]:
    """Every array of floats by its dotted name.

    Raises:
        UsageError: msgpack is not installed, or the file is damaged.
    """
    shown = safe_text(path)
    if importlib.util.find_spec("msgpack") is None:
        raise UsageError(f"'{shown}' is a file of Flax; install msgpack (the extra [flax]) to read it")
    import msgpack

    raw = read_bytes(path, flag)
    try:
        data = msgpack.unpackb(raw, ext_hook=_extension, raw=False, strict_map_key=False)
    except Exception as error:  # the library raises its own classes, and ours of numpy
        raise UsageError(f"'{shown}' is damaged ({reason(error)}); it was cut or altered, get it again") from error
    return named_tensors(data)


def _extension(code: int, content: bytes) -> Any:
    """An array of floats; None for every other extension."""
    import msgpack

    if code != ARRAY:
        return None
    shape, kind, numbers = msgpack.unpackb(content, raw=False)
    shape = tuple(int(size) for size in shape)
    if kind == "bfloat16":
        return torch.from_numpy(np.frombuffer(numbers, "<u2").reshape(shape).copy()).view(torch.bfloat16)
    if kind not in FLOATS:
        return None
    return torch.from_numpy(np.frombuffer(numbers, np.dtype(kind).newbyteorder("<")).reshape(shape).astype(kind))


REFUSED: dict[FileKind, str] = {
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


def read_weights(path: Path, flag: str, kind: FileKind | None = None) -> dict[str, Tensor]:
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


def read_part(path: Path, flag: str, kind: FileKind | None = None) -> dict[str, Tensor]:
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

"""Files of flax.serialization: nested maps in MessagePack, arrays as extension 1: (shape, type, bytes)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradscope.errors import UsageError
from gradscope.files.paths import read_bytes
from gradscope.files.tensors import named_tensors
from gradscope.files.torch_file import reason
from gradscope.text import safe_text

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

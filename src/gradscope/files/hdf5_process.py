"""Recurrent cells in an HDF5 file, read by a process of its own: its C library can loop or crash on damaged files.

`python -m gradscope.files.hdf5_process < FILE` writes arrays as numpy.savez does, and beside them one text.
"""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradscope.errors import UsageError
from gradscope.files.zip_check import LARGEST_INFLATED
from gradscope.text import safe_text

PARTS = {"kernel": "kernel", "recurrent_kernel": "recurrent", "bias": "bias", "0": "kernel", "1": "recurrent"}
PARTS |= {"2": "bias"}
"""What Keras calls the arrays of a cell, by name (`kernel:0`) or by number in a folder `vars`."""
MOST = 100_000


def main() -> None:
    """Read standard input, write standard output."""
    about: dict[str, Any] = {}
    numbers: dict[str, NDArray[Any]] = {}
    try:
        cells, about["texts"] = _arrays(io.BytesIO(sys.stdin.buffer.read()), sys.argv[1])
        about["cells"] = [[place, named, sorted(parts)] for place, named, parts in cells]
        numbers = {f"{n}.{part}": value for n, (_, _, parts) in enumerate(cells) for part, value in parts.items()}
    except UsageError as error:
        about = {"refused": str(error)}
    except Exception as error:  # HDF5 raises what its C library says, in many classes
        about = {"damaged": safe_text(str(error).partition("\n")[0] or type(error).__name__, 100)}
    found = io.BytesIO()
    np.savez(found, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **numbers)  # type: ignore[arg-type]
    sys.stdout.buffer.write(found.getvalue())


def _arrays(source: io.BytesIO, shown: str) -> tuple[list[tuple[str, str, dict[str, NDArray[Any]]]], dict[str, str]]:
    """Cells in an HDF5 file, in its order, and the texts that stand at its top (or at its `model_weights`)."""
    import h5py

    found: dict[str, dict[str, Any]] = {}
    with h5py.File(source, "r") as file:
        texts = _texts(file)
        if isinstance(file.get("model_weights", getlink=True), h5py.HardLink):
            texts = {**_texts(file["model_weights"]), **texts}

        def visit(name: str, thing: Any) -> bool | None:
            if isinstance(thing, h5py.Dataset) and not name.startswith(("optimizer", "model_weights/optimizer")):
                folder, _, leaf = name.rpartition("/")
                part = PARTS.get(leaf.partition(":")[0])
                if part and (not leaf.isdigit() or folder.endswith("cell/vars")):
                    found.setdefault(folder, {})[part] = thing
            return True if len(found) > MOST else None

        file.visititems(visit)  # follows no link into another file
        recurrent = {place: parts for place, parts in found.items() if _is_recurrent(parts)}
        cells = []
        for place, parts in recurrent.items():
            numbers = {part: _numbers(data, f"{place}/{part}", shown) for part, data in parts.items()}
            cells.append((re.sub(r"/?vars$", "", place), _named(file, place), numbers))
    return cells, texts


def _is_recurrent(parts: Mapping[str, Any]) -> bool:
    """A kernel and a recurrent kernel of the same width, the second (H, kH) with k = 1, 3 or 4."""
    if not {"kernel", "recurrent"} <= set(parts) or any(
        len(parts[name].shape) != 2 for name in ("kernel", "recurrent")
    ):
        return False
    hidden, width = parts["recurrent"].shape
    return bool(hidden) and width in (hidden, 3 * hidden, 4 * hidden) and parts["kernel"].shape[1] == width


def _numbers(data: Any, name: str, shown: str) -> NDArray[Any]:
    what = f"'{safe_text(name, 60)}' in '{shown}'"
    if data.external or data.is_virtual:
        raise UsageError(f"{what} lies in another file; save the model as one file")
    if data.dtype.kind != "f":
        raise UsageError(f"{what} holds {safe_text(data.dtype, 40)}, weights are floats; save it as float32")
    compressed = data.compression is not None
    if data.nbytes > (LARGEST_INFLATED if compressed else data.id.get_storage_size()):
        raise UsageError(f"{what} claims {data.nbytes:,} bytes, more than are stored; it was altered, get it again")
    return np.asarray(data[()])


def _named(file: Any, place: str) -> str:
    """The name that Keras 3 writes at the folder `vars` of the layer around a cell."""
    parts = place.split("/")
    if parts[-2:] != ["cell", "vars"]:
        return ""
    if parts[-3:-2] and parts[-3] in ("forward_layer", "backward_layer"):
        parts = parts[:-1]
    around = "/".join([*parts[:-2], "vars"])
    return _texts(file[around]).get("name", "") if around in file else ""


def _texts(thing: Any) -> dict[str, str]:
    found = {}
    for name in thing.attrs:
        if name in ("model_config", "keras_version", "name"):
            value = thing.attrs[name]
            found[name] = value.decode() if isinstance(value, bytes) else str(value)
    return found


if __name__ == "__main__":
    main()

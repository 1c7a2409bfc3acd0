"""Files of Keras: the numbers of recurrent layers out of HDF5, and the settings out of JSON. Nothing named is run."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradscope.errors import UsageError
from gradscope.files.preflight import LARGEST_INFLATED, check_zip
from gradscope.files.sniff import Kind
from gradscope.files.torch_file import reason
from gradscope.text import safe_text

PARTS = {"kernel": "kernel", "recurrent_kernel": "recurrent", "bias": "bias", "0": "kernel", "1": "recurrent"}
PARTS |= {"2": "bias"}
"""What Keras calls the arrays of a cell, by name (`kernel:0`) or by number in a folder `vars`."""
DEEPEST = 12
MOST = 100_000
LARGEST_CONFIG = 50_000_000


@dataclass(frozen=True, eq=False)
class Arrays:
    """The numbers of one cell, as Keras keeps them."""

    place: str
    """Where they lie in the file, `layers/lstm/cell`."""
    named: str
    """The name the file gives the layer there; empty when it gives none."""
    parts: dict[str, NDArray[Any]]
    """`kernel` (I, kH), `recurrent` (H, kH) and perhaps `bias`."""


@dataclass(frozen=True, eq=False)
class KerasFile:
    """What is used of a file."""

    version: str
    """Of Keras, empty when the file does not say."""
    arrays: list[Arrays]
    layers: list[Mapping[str, Any]] = field(default_factory=list)
    """`class_name` and `config` of every layer, outer ones first; none in a file of weights alone."""


def read_keras(path: Path, kind: Kind) -> KerasFile:
    """The recurrent cells in a file of Keras and the settings of its layers.

    Raises:
        UsageError: h5py is not installed, or the file is damaged.
    """
    shown = safe_text(path)
    if importlib.util.find_spec("h5py") is None:
        raise UsageError(f"'{shown}' is a file of Keras; install h5py (the extra [keras]) to read it")
    try:
        return _from_zip(path) if kind == "Keras" else _from_hdf5(path)
    except UsageError:
        raise
    except Exception as error:  # HDF5 raises what its C library says, in many classes
        raise UsageError(f"'{shown}' is damaged ({reason(error)}); it was cut or altered, get it again") from error


def _from_zip(path: Path) -> KerasFile:
    check_zip(path, compressed=True)
    with zipfile.ZipFile(path) as archive:
        if archive.getinfo("config.json").file_size > LARGEST_CONFIG:
            raise UsageError(f"'{safe_text(path)}' has a config.json of more than 50 MB; save the model again")
        config = json.loads(archive.read("config.json"))
        known = "metadata.json" in archive.namelist()
        about = json.loads(archive.read("metadata.json")) if known else {}
        content = io.BytesIO(archive.read("model.weights.h5"))
    version = str(about.get("keras_version", "")) if isinstance(about, dict) else ""
    return KerasFile(version, _arrays(content, safe_text(path))[0], list(layers_of(config)))


def _from_hdf5(path: Path) -> KerasFile:
    arrays, attributes = _arrays(path, safe_text(path))
    config = attributes.get("model_config")
    layers = list(layers_of(json.loads(config))) if config else []
    return KerasFile(attributes.get("keras_version", ""), arrays, layers)


def layers_of(config: Any, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """Every layer of a configuration, those inside others too, in order."""
    if depth > DEEPEST or not isinstance(config, dict):
        return
    inner = config.get("config")
    if isinstance(config.get("class_name"), str) and isinstance(inner, dict | list):
        if isinstance(inner, dict):
            yield {**config, "config": inner}
        below = inner if isinstance(inner, list) else inner.get("layers", [])
        wrapped = inner.get("layer") if isinstance(inner, dict) else None
        inside = [*below, wrapped] if isinstance(below, list) else [wrapped]
        bidirectional = config["class_name"] == "Bidirectional"
        for layer in inside:
            if not bidirectional:
                yield from layers_of(layer, depth + 1)


def _arrays(source: Path | io.BytesIO, shown: str) -> tuple[list[Arrays], dict[str, str]]:
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
            cells.append(Arrays(re.sub(r"/?vars$", "", place), _named(file, place), numbers))
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

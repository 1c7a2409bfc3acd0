"""Files of Keras: the numbers of recurrent layers out of HDF5, and the settings out of JSON. Nothing named is run."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradscope.errors import UsageError
from gradscope.files.paths import FileKind
from gradscope.files.torch_file import reason
from gradscope.files.zip_check import check_zip
from gradscope.text import safe_text

DEEPEST = 12
SECONDS = 8.0
"""That reading HDF5 may take; 100 MB take a tenth of one."""
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


def read_keras(path: Path, kind: FileKind) -> KerasFile:
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
        content = archive.read("model.weights.h5")
    version = str(about.get("keras_version", "")) if isinstance(about, dict) else ""
    return KerasFile(version, _arrays(content, safe_text(path))[0], list(layers_of(config)))


def _from_hdf5(path: Path) -> KerasFile:
    arrays, attributes = _arrays(path.read_bytes(), safe_text(path))
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


def _arrays(content: bytes, shown: str) -> tuple[list[Arrays], dict[str, str]]:
    """Cells in an HDF5 file, in its order, and the texts that stand at its top (or at its `model_weights`)."""
    command = [sys.executable, "-P", "-m", "gradscope.files.hdf5_process", shown]
    damaged = f"'{shown}' is damaged (%s); it was cut or altered, get it again"
    try:
        done = subprocess.run(command, input=content, capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise UsageError(damaged % "HDF5 comes to no end with it") from error
    if done.returncode:
        raise UsageError(damaged % "HDF5 fails on it")
    with np.load(io.BytesIO(done.stdout), allow_pickle=False) as found:
        about = json.loads(found["about"].tobytes())
        if "refused" in about:
            raise UsageError(about["refused"])
        if "damaged" in about:
            raise UsageError(damaged % about["damaged"])
        cells = [
            Arrays(place, named, {part: found[f"{n}.{part}"] for part in parts})
            for n, (place, named, parts) in enumerate(about["cells"])
        ]
    return cells, about["texts"]

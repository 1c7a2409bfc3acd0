"""`gradscope doctor`: what is installed, and what of it will matter."""

from __future__ import annotations

import importlib
import os
import platform
import sys
from collections.abc import Iterator

from gradscope import __version__
from gradscope.cli.output import emit, is_coloured, is_unicode
from gradscope.text import safe_text

PACKAGES = ("torch", "numpy", "typer", "rich", "pydantic", "safetensors")

READERS = {"h5py": ("Keras files", "keras"), "onnx": ("ONNX files", "onnx"), "msgpack": ("Flax .msgpack files", "flax")}
"""Package -> what it reads, and the extra that brings it."""
DRAWERS = {"altair": ("charts", "report"), "vl-convert-python": ("pages, PNG and SVG", "report")}
"""The same for what is drawn."""


OTHERS = {"distributed": ("sweeps on a cluster", "sweep"), "pyarrow": ("Parquet files of sweeps", "parquet")}
"""Package -> what it is for, and the extra that brings it."""


def doctor() -> int:
    """Show versions and devices, and warn of what could go wrong."""
    lines = [f"{name:<12} {value}" for name, value in _facts()]
    emit("\n".join([*lines, *(f"warning: {text}" for text in _warnings()), ""]))
    return 0


def _facts() -> Iterator[tuple[str, str]]:
    yield "gradscope", __version__
    yield "python", platform.python_version()
    for name in PACKAGES:
        yield name, _version(name) or "missing"
    for name, (what, extra) in READERS.items():
        version = _version(name)
        yield name, f"{version} ({what} can be read)" if version else f"not installed: the extra [{extra}] reads {what}"
    for name, (what, extra) in OTHERS.items():
        version = _version(name)
        yield name, f"{version} ({what})" if version else f"not installed: the extra [{extra}] is for {what}"
    for name, (what, extra) in DRAWERS.items():
        version = _version(name)
        short = name.removesuffix("-python")
        yield short, f"{version} (draws {what})" if version else f"not installed: the extra [{extra}] draws {what}"
    yield "devices", _devices()
    encoding = getattr(sys.stdout, "encoding", None) or "none"
    yield "output", f"{safe_text(encoding)} ({'all characters' if is_unicode() else 'ASCII only'})"
    yield "colour", "yes" if is_coloured("auto", os.environ) else "no"


def _version(name: str) -> str | None:
    from importlib import metadata

    try:
        return safe_text(metadata.version(name))
    except metadata.PackageNotFoundError:
        return None


def _devices() -> str:
    try:
        torch = importlib.import_module("torch")
    except Exception as error:  # a broken installation of torch fails in many ways, and this is where to learn which
        return f"unknown: torch cannot be imported ({safe_text(error)})"
    names = ["cpu"]
    if torch.cuda.is_available():
        names += [
            f"cuda:{number} ({torch.cuda.get_device_name(number)})" for number in range(torch.cuda.device_count())
        ]
    if torch.backends.mps.is_available():
        names.append("mps")
    return safe_text(", ".join(names))


def _warnings() -> Iterator[str]:
    other = _version("gradscope")
    if other is not None:
        yield (
            f"another package named 'gradscope' ({other}) is installed; it has nothing to do with this one, which is "
            "'gradscope-bptt', and overwrites its files: pip uninstall gradscope gradscope-bptt, then install again"
        )
    for name in PACKAGES:
        if _version(name) is None:
            yield f"{name} is missing; install gradscope-bptt again with its dependencies"

"""What a file is, by its content: names and suffixes lie, first bytes seldom do."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

from gradscope.errors import UsageError
from gradscope.files.paths import unreadable
from gradscope.text import safe_text

Kind = Literal[
    "torch zip",
    "torch pickle",
    "TorchScript",
    "pt2",
    "safetensors",
    "npy",
    "npz",
    "Keras",
    "HDF5",
    "ONNX",
    "msgpack",
    "LFS pointer",
    "HTML",
    "zip",
    "text",
    "unknown",
]

HEAD = 4096
"""Bytes from the beginning that are looked at."""
LARGEST_HEADER = 100_000_000
"""Bytes a safetensors header may have (the format's own limit)."""


def kind_of(path: Path, flag: str) -> Kind:
    """What `path` holds.

    Raises:
        UsageError: it cannot be read, or it begins like a zip archive and is none.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise unreadable(str(path), flag, error) from error
    if head.startswith(b"PK"):
        return _kind_of_zip(path)
    return _kind_of_bytes(head, size)


def _kind_of_zip(path: Path) -> Kind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception as error:  # a damaged directory can raise nearly anything
        reason = safe_text(str(error) or type(error).__name__, 80)
        raise UsageError(
            f"'{safe_text(path)}' is a damaged zip archive ({reason}); it was cut or altered, get it again"
        ) from error
    inner = {name.partition("/")[2] for name in names}
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return "TorchScript"
    if {"serialized_exported_program.json"} & {*names, *inner} or "archive_format" in {*names, *inner}:
        return "pt2"
    if "data.pkl" in inner:
        return "torch zip"
    if {"model.weights.h5", "config.json"} <= set(names):
        return "Keras"
    return "zip"


def _kind_of_bytes(head: bytes, size: int) -> Kind:
    start = head.lstrip()[:64].lower()
    if head.startswith(b"version https://git-lfs"):
        return "LFS pointer"
    if start.startswith((b"<!doctype", b"<html", b"<head")):
        return "HTML"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "HDF5"
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return "torch pickle"
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= min(LARGEST_HEADER, size - 8):
        return "safetensors"
    if _is_onnx(head):
        return "ONNX"
    if 0x81 <= head[0] <= 0x8F and len(head) > 1 and 0xA1 <= head[1] <= 0xBF:  # a small map whose first key is a text
        return "msgpack"
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # not merely cut inside a character
            return "unknown"
    return "text" if b"\0" not in head else "unknown"


def _is_onnx(head: bytes) -> bool:
    """A ModelProto begins with its version (field 1, a small number) and the name of its producer (field 2, a text)."""
    return len(head) > 4 and head[0] == 0x08 and 0 < head[1] < 0x20 and head[2] in (0x12, 0x3A, 0x42)

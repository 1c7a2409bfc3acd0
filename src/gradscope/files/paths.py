"""Opening what the user named, and what a file is by its content: names and suffixes lie, first bytes seldom do."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from gradscope.errors import UsageError
from gradscope.text import safe_text

MOST = 1000
"""Parts of one model."""
PART = re.compile(r"-(\d{5})-of-(\d{5})(?=\.\w+$)")
"""What the name of a file says that holds one part of a model: `model-00001-of-00002.safetensors`."""


def existing_file(name: str, flag: str) -> Path:
    """The path of a file that is there and not empty.

    Raises:
        UsageError: nothing there, a folder, a special file, or no bytes.
    """
    path, shown = Path(name), safe_text(name)
    try:
        if path.is_dir():
            raise UsageError(f"{flag} '{shown}' is a folder, a file is needed; name one file inside it")
        if not path.exists():
            raise UsageError(f"{flag} '{shown}' does not exist; check the path")
        if not path.is_file():
            raise UsageError(f"{flag} '{shown}' is not a regular file; save the data to a file first")
        if path.stat().st_size == 0:
            raise UsageError(f"{flag} '{shown}' is empty (0 bytes); write it again or name another file")
    except OSError as error:
        raise unreadable(name, flag, error) from error
    return path


def read_bytes(path: Path, flag: str) -> bytes:
    """All bytes of `path`.

    Raises:
        UsageError: the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(str(path), flag, error) from error


def decode_utf8(raw: bytes, what: str, remedy: str) -> str:
    """UTF-8 text of `raw`, a leading byte-order mark dropped.

    Raises:
        UsageError: not UTF-8; the message gives the offset of the first bad byte, counted from 0.
    """
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # utf-8-sig counts from behind the mark it dropped
        offset = error.start + (len(raw) - len(error.object))
        raise UsageError(f"{what} is not UTF-8: byte 0x{raw[offset]:02x} at offset {offset}; {remedy}") from error


def unreadable(name: str, flag: str, error: OSError) -> UsageError:
    """The error for a file that the system will not read."""
    reason = safe_text(error.strerror or type(error).__name__)
    return UsageError(f"{flag} '{safe_text(name)}' cannot be read: {reason}; check its name and permissions")


def parts_of(path: Path) -> list[Path]:
    """All files of a model that is saved in parts, by the name of one of them; the file alone where it is whole.

    Raises:
        UsageError: a part is not beside the others.
    """
    known = PART.search(path.name)
    if known is None:
        return [path]
    count = int(known[2])
    names = [PART.sub(f"-{part:05d}-of-{known[2]}", path.name) for part in range(1, min(count, MOST) + 1)]
    lost = next((name for name in names if not path.with_name(name).is_file()), None)
    if lost is not None or path.name not in names:
        gone = "" if lost is None else f", and '{safe_text(lost)}' is not beside it"
        raise UsageError(f"'{safe_text(path)}' is one of {count} parts of a model{gone}; put all into one folder")
    return [path.with_name(name) for name in names]


def first_parts(paths: Iterable[Path]) -> list[Path]:
    """One file for each model: of several parts the first of them that is there."""
    found: dict[str, Path] = {}
    for path in paths:
        found.setdefault(str(path.with_name(PART.sub(r"-of-\2", path.name))), path)
    return list(found.values())


FileKind = Literal[
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


def kind_of(path: Path, flag: str) -> FileKind:
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


def _kind_of_zip(path: Path) -> FileKind:
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


def _kind_of_bytes(head: bytes, size: int) -> FileKind:
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

"""Opening what the user named."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

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

"""Opening what the user named."""

from __future__ import annotations

from pathlib import Path

from gradscope.errors import UsageError
from gradscope.text import safe_text


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

"""Zip archives, looked at before anything inside is used: torch itself checks no checksum."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

from gradscope.errors import UsageError
from gradscope.text import safe_text


def first_twice(names: Iterable[str]) -> str | None:
    """The first name that was there before; None where each comes once."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


MOST_ENTRIES = 65_536
LARGEST_INFLATED = 2**30
"""Bytes that all compressed members together may unfold to."""
CHUNK = 2**20


def check_zip(path: Path, *, compressed: bool) -> None:
    """Read every member once and hold it to what the archive says of it.

    Args:
        path: the archive.
        compressed: whether members may be compressed (numpy's may, those of torch.save never are).

    Raises:
        UsageError: damaged members, names that leave the archive or come twice, more members or bytes than sense.
    """
    shown = safe_text(path)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _check_entries(entries, path.stat().st_size, shown, compressed)
            for entry in entries:
                with archive.open(entry) as member:
                    while member.read(CHUNK):  # the checksum is compared at the end of the member
                        pass
    except UsageError:
        raise
    except Exception as error:  # zipfile raises struct.error, zlib.error, NotImplementedError, EOFError and more
        reason = safe_text(str(error) or type(error).__name__, 80)
        raise UsageError(f"'{shown}' is damaged ({reason}); it was cut or altered, get it again") from error


def _check_entries(entries: list[zipfile.ZipInfo], size: int, shown: str, compressed: bool) -> None:
    if len(entries) > MOST_ENTRIES:
        raise UsageError(f"'{shown}' has {len(entries):,} members, more than {MOST_ENTRIES:,}; save it with fewer")
    names = [entry.filename for entry in entries]
    if (twice := first_twice(names)) is not None:
        raise UsageError(f"'{shown}' holds '{safe_text(twice, 40)}' twice, only one can be meant; save it again")
    for name in names:
        if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
            raise UsageError(
                f"'{shown}' holds the path '{safe_text(name, 40)}', which leaves the archive; do not use it"
            )
    for entry in entries:
        stored = entry.compress_type == zipfile.ZIP_STORED
        if not stored and not compressed:
            raise UsageError(
                f"'{shown}' is compressed, which torch.save never does; unpack it, or load it with torch and save again"
            )
        if stored and entry.file_size != entry.compress_size:
            raise UsageError(f"'{shown}' declares two sizes for one member; it was altered, get it again")
    if sum(entry.compress_size for entry in entries) > size:
        raise UsageError(f"'{shown}' declares more bytes than it has; it was cut or altered, get it again")
    inflated = sum(entry.file_size for entry in entries if entry.compress_type != zipfile.ZIP_STORED)
    if inflated > LARGEST_INFLATED:
        raise UsageError(f"'{shown}' unfolds to {inflated / 2**30:.1f} GiB; save it uncompressed: numpy.savez")

"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from gradscope.errors import UsageError
from gradscope.text import safe_text


def write_file(path: Path, content: bytes) -> None:
    """Write to a temporary name beside `path`, then move it there; devices and pipes are written directly.

    Raises:
        UsageError: the file cannot be written; what was there before is still whole.
    """
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(content)
            return
        mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else _default_mode()
        with temporary(target) as file:
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                os.chmod(file.name, mode)
                os.replace(file.name, target)
            except BaseException:
                # Ctrl-C may come when the file has been moved already.
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(file.name)
                raise
    except OSError as error:
        raise unwritable(path, error) from error


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Wait while another process is within this for a file of the same folder: to read a file, change it, write it.

    A folder or a system without locks lets everybody pass.
    """
    folder: int | None = None
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        folder = os.open(Path(os.path.realpath(path)).parent, os.O_RDONLY)
        fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if folder is not None:
            os.close(folder)


def temporary(target: Path) -> IO[bytes]:
    """A new file in the folder of `target`; on the same disk, so that moving it is one step."""
    # Imported where a file is written, for it brings a dozen modules that a help text can do without.
    import tempfile

    return tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name[:40]}.", delete=False)


def unwritable(path: Path, error: OSError) -> UsageError:
    """One line for a file that cannot be written."""
    reason = safe_text(error.strerror or error).lower()
    return UsageError(f"cannot write '{safe_text(path)}': {reason}; choose a file in a folder you can write to")


def _default_mode() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask

"""Arrays of numpy, .npy and .npz: sizes are compared with the file before memory is asked for."""

from __future__ import annotations

import math
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradscope.errors import UsageError
from gradscope.files.torch_file import reason
from gradscope.files.zip_check import check_zip
from gradscope.text import safe_text


def open_npy(path: Path) -> NDArray[Any]:
    """One array, mapped into memory: only what is used is read.

    Raises:
        UsageError: not an npy file, Python objects inside, or fewer bytes than its header says.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # the header is parsed as Python, which fails in many ways
        raise unusable(path, error) from error


def npz_names(path: Path) -> tuple[str, ...]:
    """The names of the arrays, once every member was found whole and as large as it says.

    Raises:
        UsageError: not an archive, damaged, or Python objects inside.
    """
    if not zipfile.is_zipfile(path):
        # numpy would take any other content for a pickle, and say so
        raise UsageError(f"'{safe_text(path)}' is not an npz archive; write it with numpy.savez")
    check_zip(path, compressed=True)
    try:
        with zipfile.ZipFile(path) as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for entry in archive.infolist():
                _check_member(archive, entry)
            return tuple(entry.filename.removesuffix(".npy") for entry in archive.infolist())
    except UsageError:
        raise
    except Exception as error:
        raise unusable(path, error) from error


def _check_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """Hold the shape in a member's header to the bytes that follow it.

    Raises:
        ValueError: they differ, or it is no array.
    """
    with archive.open(entry) as member:
        version = np.lib.format.read_magic(member)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version} of the format")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, kind = read(member)
        if kind.hasobject:
            raise ValueError("object array")
        if math.prod(shape) * kind.itemsize != entry.file_size - member.tell() or min(shape, default=0) < 0:
            raise ValueError("a shape that does not fit its bytes")


def read_npz(path: Path, name: str) -> NDArray[Any]:
    """One array of an archive that `npz_names` has found whole.

    Raises:
        UsageError: it cannot be read after all.
    """
    try:
        with warnings.catch_warnings(), np.load(path, allow_pickle=False) as archive:
            warnings.simplefilter("ignore")
            values: NDArray[Any] = archive[name]
            return values
    except Exception as error:
        raise unusable(path, error) from error


def unusable(path: Path, error: Exception) -> UsageError:
    """The error for a file that numpy cannot read."""
    if "object" in str(error).lower():
        return UsageError(
            f"'{safe_text(path)}' holds Python objects, which could run code; "
            f"save numbers: numpy.save(path, x.astype(float))"
        )
    return UsageError(
        f"'{safe_text(path)}' is damaged or not what its name says ({reason(error)}); write it again with numpy"
    )

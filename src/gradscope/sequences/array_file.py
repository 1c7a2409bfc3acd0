"""Arrays and tensors in files: .npy, .npz, .pt. Nothing in them is ever executed."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from gradscope.errors import UsageError
from gradscope.registry import unknown
from gradscope.sequences.file_data import FileData
from gradscope.text import safe_text

Entry = TypeVar("Entry")


def read_npy(path: Path, columns: tuple[str, ...], flag: str) -> FileData:
    """One array, mapped into memory: only the steps that are used are read.

    Raises:
        UsageError: not an npy file, Python objects inside, or fewer bytes than its header says.
    """
    try:
        values = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError, EOFError, OverflowError) as error:
        raise _unusable(path, error) from error
    return FileData(values, picks=columns)


def read_npz(path: Path, columns: tuple[str, ...], flag: str) -> FileData:
    """The only array of an archive, or the one that `columns` names.

    Raises:
        UsageError: not an archive, damaged, Python objects inside, or several arrays and none named.
    """
    if not zipfile.is_zipfile(path):
        # numpy would take any other content for a pickle, and say so
        raise UsageError(f"'{safe_text(path)}' is not an npz archive; write it with numpy.savez")
    try:
        with np.load(path, allow_pickle=False) as archive:
            name, picks = _choose(dict.fromkeys(archive.files), columns, path)
            values = archive[name]
    except (ValueError, OSError, EOFError, MemoryError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise _unusable(path, error) from error
    return FileData(values, picks=picks, notes=(f"array {safe_text(name, 40)}",))


def read_pt(path: Path, columns: tuple[str, ...], flag: str) -> FileData:
    """A tensor, or the only tensor of a dict, or the one that `columns` names.

    Raises:
        UsageError: more than tensors inside, damaged, no tensor, or several and none named.
    """
    shown = safe_text(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything at all
        reason = safe_text(str(error).partition("\n")[0], 100)
        remedy = "save the tensor alone with torch.save(x, path)"
        raise UsageError(f"'{shown}' is not a file of plain tensors ({reason}); {remedy}") from error
    notes: tuple[str, ...] = ()
    if isinstance(loaded, Mapping):
        tensors = {str(key): value for key, value in loaded.items() if isinstance(value, torch.Tensor)}
        name, columns = _choose(tensors, columns, path)
        loaded, notes = tensors[name], (f"tensor {safe_text(name, 40)}",)
    if not isinstance(loaded, torch.Tensor):
        raise UsageError(f"'{shown}' holds a {type(loaded).__name__}, a tensor is needed; save the tensor alone")
    return FileData(_to_numpy(loaded, shown), picks=columns, notes=notes)


def _to_numpy(tensor: torch.Tensor, shown: str) -> NDArray[Any]:
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise UsageError(f"'{shown}' holds a sparse or quantized tensor; save x.to_dense() or x.dequantize()")
    if 0 in tensor.stride() and tensor.nbytes > tensor.untyped_storage().nbytes():
        # a few stored bytes can claim any size
        raise UsageError(f"'{shown}' holds an expanded tensor, larger than what is stored; save x.contiguous()")
    plain = tensor.detach()
    if plain.dtype == torch.bfloat16:
        plain = plain.to(torch.float32)
    try:
        values: NDArray[Any] = plain.resolve_conj().resolve_neg().numpy()
    except (TypeError, RuntimeError) as error:
        raise UsageError(f"'{shown}' holds {tensor.dtype} numbers; save x.to(torch.float32)") from error
    return values


def _choose(entries: Mapping[str, Entry], columns: tuple[str, ...], path: Path) -> tuple[str, tuple[str, ...]]:
    """The entry that `columns` names, else the only one; and the words left over, which pick features."""
    shown, names = safe_text(path), [safe_text(name, 40) for name in entries]
    if not entries:
        raise UsageError(f"'{shown}' holds no arrays; name another file")
    named = [column for column in columns if column in entries]
    rest = tuple(column for column in columns if column not in entries)
    if len(named) > 1:
        raise UsageError(f"--columns names {len(named)} arrays of '{shown}', one sequence is needed; name one")
    if named:
        return named[0], rest
    wrong = [column for column in rest if not column.isdigit()]
    if wrong:
        raise UsageError(f"'{shown}': {unknown('array', wrong[0], names)}")
    if len(entries) > 1:
        raise UsageError(
            f"'{shown}' holds {len(entries)} arrays ({', '.join(names[:8])}); choose one with --columns NAME"
        )
    return next(iter(entries)), rest


def _unusable(path: Path, error: Exception) -> UsageError:
    shown, reason = safe_text(path), safe_text(str(error).partition("\n")[0] or type(error).__name__, 100)
    if "object" in str(error).lower():
        return UsageError(
            f"'{shown}' holds Python objects, which could run code; save numbers: numpy.save(path, x.astype(float))"
        )
    return UsageError(f"'{shown}' is damaged or not what its name says ({reason}); write it again with numpy")

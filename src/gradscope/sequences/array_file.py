"""Arrays and tensors in files: .npy, .npz, .pt. Nothing in them is ever executed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray

from gradscope.errors import UsageError
from gradscope.files.numpy_file import npz_names, open_npy, read_npz
from gradscope.files.tensors import checked
from gradscope.files.torch_file import WantsCodeError, load_torch
from gradscope.registry import unknown
from gradscope.sequences.file_data import FileData, is_numbered
from gradscope.text import safe_text

Entry = TypeVar("Entry")


def read_npy(path: Path, columns: tuple[str, ...], flag: str) -> FileData:
    """One array, mapped into memory: only the steps that are used are read.

    Raises:
        UsageError: not an npy file, Python objects inside, or fewer bytes than its header says.
    """
    return FileData(open_npy(path), picks=columns)


def read_npz_array(path: Path, columns: tuple[str, ...], flag: str) -> FileData:
    """The only array of an archive, or the one that `columns` names.

    Raises:
        UsageError: not an archive, damaged, Python objects inside, or several arrays and none named.
    """
    name, picks = _choose(dict.fromkeys(npz_names(path)), columns, path)
    return FileData(read_npz(path, name), picks=picks, notes=(f"array {safe_text(name, 40)}",))


def read_pt(path: Path, columns: tuple[str, ...], flag: str) -> FileData:
    """A tensor, or the only tensor of a dict, or the one that `columns` names.

    Raises:
        UsageError: more than tensors inside, damaged, no tensor, or several and none named.
    """
    shown = safe_text(path)
    try:
        loaded = load_torch(path, flag)
    except WantsCodeError as error:
        raise UsageError(f"{error}; save the tensor alone with torch.save(x, path)") from error
    notes: tuple[str, ...] = ()
    if isinstance(loaded, dict):
        tensors = {str(key): value for key, value in dict.items(loaded) if isinstance(value, torch.Tensor)}
        name, columns = _choose(tensors, columns, path)
        loaded, notes = tensors[name], (f"tensor {safe_text(name, 40)}",)
    if not isinstance(loaded, torch.Tensor):
        raise UsageError(f"'{shown}' holds a {type(loaded).__name__}, a tensor is needed; save the tensor alone")
    return FileData(_to_numpy(checked(loaded, "", shown), shown), picks=columns, notes=notes)


def _to_numpy(tensor: torch.Tensor, shown: str) -> NDArray[Any]:
    plain = tensor.to(torch.float32) if tensor.dtype == torch.bfloat16 else tensor
    try:
        values: NDArray[Any] = plain.numpy()
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
    wrong = [column for column in rest if not is_numbered(column)]
    if wrong:
        raise UsageError(f"'{shown}': {unknown('array', wrong[0], names)}")
    if len(entries) > 1:
        raise UsageError(
            f"'{shown}' holds {len(entries)} arrays ({', '.join(names[:8])}); choose one with --columns NAME"
        )
    return next(iter(entries)), rest

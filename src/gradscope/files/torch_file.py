"""Files of torch.save, read as data: whatever wants to run code is refused, and the classes it wants are named."""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import pickletools
import warnings
from pathlib import Path
from typing import Any

import torch

from gradscope.errors import UsageError
from gradscope.files.paths import FileKind, kind_of
from gradscope.files.zip_check import check_zip
from gradscope.text import safe_text
from gradscope.torch_private import weights_only_globals

# What training scripts put beside their weights. Each only stores the fields it is given; the names are compared
# with this list and nothing is imported.
HARMLESS: list[Any] = [
    argparse.Namespace,
    (pathlib.PurePosixPath, "pathlib.PosixPath"),
    (pathlib.PurePosixPath, "pathlib._local.PosixPath"),
    (pathlib.PureWindowsPath, "pathlib.WindowsPath"),
    (pathlib.PureWindowsPath, "pathlib._local.WindowsPath"),
    pathlib.PurePosixPath,
    pathlib.PureWindowsPath,
]


class WantsCodeError(UsageError):
    """A file that can only be loaded by running code; `wanted` are the classes and functions it names."""

    def __init__(self, message: str, wanted: tuple[str, ...]) -> None:
        """Keep the names beside the message."""
        super().__init__(message)
        self.wanted = wanted


def load_torch(path: Path, flag: str, kind: FileKind | None = None) -> Any:
    """What torch.save wrote, as plain data on the CPU: dicts, lists, numbers, tensors.

    Raises:
        WantsCodeError: it holds whole Python objects.
        UsageError: damaged, or not a file of torch.save.
    """
    shown = safe_text(path)
    kind = kind_of(path, flag) if kind is None else kind
    if kind == "torch zip":
        check_zip(path, compressed=False)
    elif kind != "torch pickle":
        raise UsageError(f"'{shown}' is not a file of torch.save ({kind}); write it with torch.save")
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(HARMLESS):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except Exception as error:  # a damaged pickle can raise anything at all
        wanted = wanted_globals(path, kind)
        if wanted:
            raise WantsCodeError(
                f"'{shown}' holds Python objects ({listed(wanted)}), not only tensors", wanted
            ) from error
        raise UsageError(f"'{shown}' is damaged ({reason(error)}); it was cut or altered, get it again") from error


def wanted_globals(path: Path, kind: FileKind) -> tuple[str, ...]:
    """What a pickle names beyond plain tensors, the user's own classes first; () when it cannot be read."""
    with contextlib.suppress(Exception), torch.serialization.safe_globals(HARMLESS):
        if kind == "torch zip":
            found = set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        else:
            found = _globals_of_legacy(path) - _allowed()
        return tuple(sorted(found, key=lambda name: (name.startswith(("torch.", "builtins.", "collections.")), name)))
    return ()


def _allowed() -> set[str]:
    known = weights_only_globals()
    mine = {entry[1] if isinstance(entry, tuple) else f"{entry.__module__}.{entry.__name__}" for entry in HARMLESS}
    return known | mine


def _globals_of_legacy(path: Path) -> set[str]:
    """Names in the four pickles (magic number, protocol, system, object) that files before torch 1.6 begin with."""
    found: set[str] = set()
    with path.open("rb") as file:
        for _ in range(4):
            for operation, argument, _ in pickletools.genops(file):
                if operation.name == "GLOBAL" and isinstance(argument, str):
                    found.add(argument.replace(" ", ".", 1).replace("__builtin__.", "builtins."))
    return found


def listed(names: tuple[str, ...], most: int = 4) -> str:
    """The first names, harmless to show."""
    more = f", {len(names) - most} more" if len(names) > most else ""
    return ", ".join(safe_text(name, 60) for name in names[:most]) + more


def reason(error: BaseException) -> str:
    """The first line of what a library says, short and harmless to show."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    first = lines[0].strip() if lines else type(error).__name__
    # torch explains at length how to load a file without its guard; that advice is not passed on.
    if first.startswith("Weights only load failed"):
        first = "not a pickle of tensors"
    return safe_text(first, 100)

"""Files that run code while they load: never by default, only when --trust says so."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.errors import UsageError
from gradscope.files.paths import FileKind
from gradscope.files.torch_file import reason
from gradscope.files.zip_check import check_zip
from gradscope.isolation.caller_state import prints_aside
from gradscope.isolation.user_code import Project, import_folders
from gradscope.text import safe_text


def load_trusted(path: Path, kind: FileKind, import_path: tuple[str, ...]) -> tuple[Any, Project]:
    """What the file makes of itself, a module or data, and the project of its code. Its code runs.

    Args:
        path: a whole pickle, TorchScript or exported program.
        kind: which of them.
        import_path: folders in which the classes of a pickle are looked for.

    Raises:
        UsageError: damaged, classes that cannot be imported, or the file's own code fails.
    """
    if kind in ("torch zip", "TorchScript", "pt2"):
        check_zip(path, compressed=kind != "torch zip")
    load, project = LOADERS.get(kind, _pickle), Project([], import_folders(import_path))
    try:
        with project.building(), prints_aside(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return load(path), project
    except (ImportError, AttributeError) as error:
        remedy = "name the folder of its code with --import-path DIR"
        if "'__main__'" in str(error):
            remedy = f"its class is known only to the script that saved it: {STATE_DICT}"
        raise UsageError(f"'{safe_text(path)}' needs code that is not found ({reason(error)}); {remedy}") from error
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"'{safe_text(path)}' cannot be loaded ({type(error).__name__}: {reason(error)}); "
            f"give its class as file.py:attr with --weights and a state_dict"
        ) from error


STATE_DICT = "torch.save its state_dict and give file.py:attr --weights FILE"
"""The way on from a pickle that cannot be loaded."""


def only_module(loaded: Any, shown: str) -> nn.Module | None:
    """The module itself, or the only one in a dict; None when there is none.

    Raises:
        UsageError: several modules.
    """
    if isinstance(loaded, nn.Module):
        return loaded
    entries = list(dict.items(loaded)) if isinstance(loaded, dict) else []
    modules = {str(key): value for key, value in entries if isinstance(value, nn.Module)}
    if len(modules) > 1:
        names = ", ".join(safe_text(name, 40) for name in list(modules)[:8])
        raise UsageError(f"'{shown}' holds {len(modules)} modules ({names}); save the one to analyse alone")
    return next(iter(modules.values()), None)


def fingerprint(path: Path) -> str:
    """What was run, for the record: the resolved path and the beginning of the SHA-256 of its bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return f"code in {safe_text(path.resolve())} was run (--trust), sha256 {digest.hexdigest()[:16]}"


def _pickle(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=False, mmap=False)


def _script(path: Path) -> Any:
    return Program(torch.jit.load(path, map_location="cpu").eval())


def _exported(path: Path) -> Any:
    return Program(torch.export.load(path).module())


class Program(nn.Module):
    """A saved program, which has its number type written into it and stays in the mode it was saved in."""

    def __init__(self, inner: nn.Module) -> None:
        """Take what torch.jit or torch.export loaded."""
        super().__init__()
        self.inner = inner
        self.dtype = next((p.dtype for p in inner.parameters() if p.dtype.is_floating_point), torch.float32)
        held = ", ".join(sorted(_recurrences(inner)))
        what = f"its {held} is hidden inside one node" if held else "no recurrence inside can be seen"
        self.closed = f"a saved program: {what}, so it is measured from its input alone"

    def forward(self, x: Tensor) -> Any:
        """What the program returns, computed in its own type."""
        if not x.is_floating_point():
            return _cast(self.inner(x), torch.get_default_dtype())
        return _cast(self.inner(x.to(self.dtype)), x.dtype)

    def train(self, mode: bool = True) -> Program:
        """Nothing: exported programs refuse to change their mode."""
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Program:
        # Constants inside the program cannot follow its parameters to another type.
        return self


def _recurrences(inner: nn.Module) -> set[str]:
    """Recurrences of torch.nn inside a program: `LSTM`, `GRU`, `RNN`, by its submodules or by its nodes."""
    names = [str(getattr(part, "original_name", "")) for part in inner.modules()]
    for part in inner.modules():
        if isinstance(part, torch.fx.GraphModule):
            called = [str(node.target) for node in part.graph.nodes if node.op == "call_function"]
            names += [name.removeprefix("aten.").partition(".")[0] for name in called]
    kinds = ("RNN", "GRU", "LSTM")
    return {kind for kind in kinds for name in names if name.upper().removesuffix("CELL").partition("_")[0] == kind}


def _cast(found: Any, dtype: torch.dtype) -> Any:
    if isinstance(found, Tensor):
        return found.to(dtype) if found.dtype.is_floating_point else found
    return type(found)(_cast(part, dtype) for part in found) if type(found) in (tuple, list) else found


LOADERS: Mapping[FileKind, Callable[[Path], Any]] = {"TorchScript": _script, "pt2": _exported}

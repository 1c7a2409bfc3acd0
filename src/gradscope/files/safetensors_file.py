"""Files of safetensors: a JSON header and plain numbers, which cannot hold code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from gradscope.errors import UsageError
from gradscope.files.names import first_twice
from gradscope.files.torch_file import reason
from gradscope.text import safe_text


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors by name, on the CPU.

    Raises:
        UsageError: damaged, or a name that comes twice.
    """
    shown = safe_text(path)
    try:
        _one_of_each(path, shown)
        return safetensors.torch.load_file(path, device="cpu")
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"'{shown}' is damaged ({reason(error)}); it was cut or altered, get it again") from error


def _one_of_each(path: Path, shown: str) -> None:
    """Of two entries with one name the library silently takes the last."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if (twice := first_twice(name for name, _ in pairs)) is not None:
            raise UsageError(f"'{shown}' holds '{safe_text(twice, 40)}' twice, only one can be meant; save it again")
        return dict(pairs)

    with path.open("rb") as file:
        header = file.read(int.from_bytes(file.read(8), "little"))
    json.loads(header, object_pairs_hook=once)

"""Independent random streams from one seed; the global generator of torch is never touched."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def normal(seed: int, *purpose: str | int, size: tuple[int, ...]) -> Tensor:
    """Standard normal numbers, float64 on the CPU, that depend on `seed`, `purpose` and `size` alone.

    Each purpose has its own stream, so asking for more of one thing (a longer text, another sequence in the batch)
    never changes the numbers of another.
    """
    return torch.randn(size, generator=_stream(seed, purpose), dtype=torch.float64)


def integers(seed: int, *purpose: str | int, below: int, size: tuple[int, ...]) -> Tensor:
    """Whole numbers 0 .. below - 1, int64 on the CPU, equally likely; streams as for `normal`."""
    return torch.randint(below, size, generator=_stream(seed, purpose))


def _stream(seed: int, purpose: tuple[str | int, ...]) -> torch.Generator:
    digest = hashlib.sha256(repr((seed, *purpose)).encode("utf-8", "backslashreplace")).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))

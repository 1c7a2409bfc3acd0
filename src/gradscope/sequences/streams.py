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
    digest = hashlib.sha256(repr((seed, *purpose)).encode("utf-8", "backslashreplace")).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    return torch.randn(size, generator=generator, dtype=torch.float64)

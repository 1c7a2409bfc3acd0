"""Sequences made from nothing but a shape and a seed, by independent random streams."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from gradscope.config.check import FEATURES, SYNTHETIC_BATCH, SYNTHETIC_LENGTH
from gradscope.errors import UsageError
from gradscope.memory import available_bytes
from gradscope.registry import unknown
from gradscope.sequences.batch import Batch


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


_GOLDEN, _SILVER = 0.618033988749895, 0.414213562373095


def random(batch: int, length: int, features: int, seed: int) -> Tensor:
    """Independent standard normal numbers; sequence b does not depend on how many sequences there are."""
    rows = [normal(seed, "random", index, size=(length, features)) for index in range(batch)]
    return torch.stack(rows)


def zeros(batch: int, length: int, features: int, seed: int) -> Tensor:
    """No input at all: what the recurrence does by itself."""
    return torch.zeros(batch, length, features, dtype=torch.float64)


def impulse(batch: int, length: int, features: int, seed: int) -> Tensor:
    """1 in every feature at step 1, 0 after."""
    x = zeros(batch, length, features, seed)
    x[:, 0] = 1.0
    return x


def sine(batch: int, length: int, features: int, seed: int) -> Tensor:
    r"""x[b, t, f] = sin(2 pi (t / period_f + phase_bf)), t = 1..T, f and b from 0.

    Periods are 8, 16, 32, 64, 128 steps, then again from 8: period_f = 8 * 2^(f mod 5). Phases, in turns, are
    0.618... b + 0.414... floor(f / 5), so neither two sequences nor two features of one period are alike.
    """
    step = torch.arange(1, length + 1, dtype=torch.float64)[None, :, None]
    feature = torch.arange(features, dtype=torch.float64)[None, None, :]
    sequence = torch.arange(batch, dtype=torch.float64)[:, None, None]
    period = 8.0 * 2.0 ** (feature % 5)
    phase = _GOLDEN * sequence + _SILVER * (feature // 5)
    return torch.sin(2 * math.pi * ((step / period + phase) % 1.0))


SEQUENCES: Mapping[str, Callable[[int, int, int, int], Tensor]] = {
    "random": random,
    "zeros": zeros,
    "impulse": impulse,
    "sine": sine,
}


def synthetic(name: str, length: int | None, batch: int | None, features: int | None, seed: int) -> Batch:
    """A batch of the sequence called `name`; by default T = 200, B = 8, F = 16.

    Raises:
        UsageError: unknown name, or more numbers than fit in memory.
    """
    if name not in SEQUENCES:
        raise UsageError(unknown("sequence", name, SEQUENCES))
    shape = (
        SYNTHETIC_BATCH if batch is None else batch,
        SYNTHETIC_LENGTH if length is None else length,
        FEATURES if features is None else features,
    )
    _check_memory(name, shape)
    x = SEQUENCES[name](*shape, seed)
    return Batch(x=x, tokens=None, token_ids=None, vocabulary=None, notes=(), source=name)


PART = 48
"""Part of the memory that the input may take: states, gates and gradients take some forty times as much."""


def _check_memory(name: str, shape: tuple[int, int, int]) -> None:
    batch, length, features = shape
    needed, memory = 8 * batch * length * features, available_bytes()
    if memory is None or needed <= memory // PART:
        return
    fits = memory // PART // (8 * batch * features)
    remedy = f"use --length {fits} or less" if fits >= 2 else "use a smaller --batch or --input-size"
    size = f"{needed / 2**30:,.0f} GiB, {memory / 2**30:,.0f} GiB are free"
    asked = f"{batch} {name} sequences of {length} steps and {features} features"
    raise UsageError(f"{asked} and what is computed from them need too much: the input alone takes {size}; {remedy}")

"""Checkpoints of one run: which files they are, and at which step of the training each was written."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradscope.config.words import FILE_SUFFIXES
from gradscope.errors import UsageError
from gradscope.text import safe_text

COUNTERS = (
    *("global_step", "step", "steps", "iteration", "iter", "iter_num", "num_updates", "current_step", "it"),
    *("epoch", "epochs", "current_epoch"),
)
"""Entries of a checkpoint that count its training, the finest first."""
NESTED = ("trainer_state", "state", "meta", "training", "progress", "info")
NAMED = re.compile(
    r"(?<![a-z])(?:global[_-]?step|step|iter(?:ation)?|update|it|checkpoint|ckpt)s?[=_-]*(\d+)", re.IGNORECASE
)
NAMED_EPOCH = re.compile(r"(?<![a-z])(?:epoch|ep|round)s?[=_-]*(\d+)", re.IGNORECASE)
NUMBER = re.compile(r"\d+")
FRACTION = re.compile(r"\d+\.\d+(?:e[+-]?\d+)?", re.IGNORECASE)
"""A loss or a metric, and no count of steps."""
SUFFIXES = tuple(suffix for suffix in FILE_SUFFIXES if suffix not in (".npy",))


@dataclass(frozen=True)
class Order:
    """What the step of a checkpoint is taken from."""

    by: str
    """`counter`, `name` or `time`."""
    entry: str = ""
    """The entry of the file that counts, where `by` is `counter`."""

    def __str__(self) -> str:
        """`by the checkpoints' own counter 'global_step'`."""
        if self.by == "counter":
            return f"by the checkpoints' own counter '{safe_text(self.entry, 40)}'"
        return {"name": "by the number in their names", "time": "by the time they were written, as steps 0, 1, 2"}[
            self.by
        ]


def found_files(words: Sequence[str]) -> list[Path]:
    """The files that words name: files, folders (their model files, one level of folders down), and patterns.

    Raises:
        UsageError: a word that names nothing.
    """
    files: dict[Path, None] = {}
    for word in words:
        here = [Path(word)] if os.path.exists(word) else [Path(name) for name in sorted(glob.glob(word))]
        if not here:
            raise UsageError(
                f"'{safe_text(word)}' names no file; give checkpoints, a folder of them, or a pattern: 'ckpt/*.pt'"
            )
        for path in here:
            files.update(dict.fromkeys(_inside(path) if path.is_dir() else [path]))
    return list(files)


def _inside(folder: Path) -> list[Path]:
    """Model files of a folder and of the folders in it (`checkpoint-500/model.safetensors`)."""
    inside = [*folder.iterdir(), *(path for sub in folder.iterdir() if sub.is_dir() for path in sub.iterdir())]
    names = [path for path in inside if path.is_file() and path.name.lower().endswith(SUFFIXES)]
    left_out = re.compile(r"^(optimizer|scheduler|rng_state|scaler|training_args|optim)", re.IGNORECASE)
    return sorted(path for path in names if not left_out.match(path.name))


def number_in(path: Path) -> int | None:
    """The step in a file's name, else in its folder's: behind a word for steps, else for epochs, else the last number.

    Numbers with a fraction are losses, where there are others.
    """
    for name in (path.name, path.parent.name):
        stem = name
        while stem.lower().endswith(SUFFIXES):
            stem = stem.rpartition(".")[0]
        counted = FRACTION.sub(" ", stem)
        found = (
            NAMED.findall(counted) or NAMED_EPOCH.findall(counted) or NUMBER.findall(counted) or NUMBER.findall(stem)
        )
        if found:
            return int(found[-1][:15])
    return None


def counters_in(data: Any) -> dict[str, int]:
    """Every entry of a loaded checkpoint that counts its training."""
    found: dict[str, int] = {}
    if not isinstance(data, Mapping):
        return found
    for holder in (data, *(data[name] for name in NESTED if isinstance(data.get(name), Mapping))):
        for name in COUNTERS:
            number = _whole(holder.get(name))
            if number is not None:
                found.setdefault(name, number)
    return found


def _whole(value: Any) -> int | None:
    if hasattr(value, "numel") and value.numel() == 1 and not value.is_complex():
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**15 else None


def order_of(files: Iterable[tuple[Path, Mapping[str, int]]]) -> Order:
    """What all of these checkpoints can be put in order by: their own counter, else their names, else time.

    A counter serves when every file has it, and no two have the same value.
    """
    every = list(files)
    for entry in COUNTERS:
        values = [counters[entry] for _, counters in every if entry in counters]
        if every and len(values) == len(every) == len(set(values)):
            return Order("counter", entry)
    numbers = [number_in(path) for path, _ in every]
    if None not in numbers and len(set(numbers)) == len(numbers):
        return Order("name")
    return Order("time")


def step_of(path: Path, counters: Mapping[str, int], order: Order) -> int | None:
    """The step of one checkpoint; None where `order` does not tell (for time, it is the place that counts)."""
    return counters.get(order.entry) if order.by == "counter" else number_in(path) if order.by == "name" else None

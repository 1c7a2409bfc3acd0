"""Checkpoints of one run: which files they are, and at which step of the training each was written."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradscope.config.words import FILE_SUFFIXES
from gradscope.errors import UsageError
from gradscope.files.paths import PART, first_parts
from gradscope.text import safe_text

UPDATES = ("global_step", "step", "steps", "iteration", "iter", "iter_num", "num_updates", "current_step", "it")
EPOCHS = ("epoch", "epochs", "current_epoch")
COUNTERS = (*UPDATES, *EPOCHS)
"""Entries of a checkpoint that count its training, the finest first."""
NESTED = ("trainer_state", "state", "meta", "training", "progress", "info")
NAMED = re.compile(
    r"(?<![a-z])(?:global[_-]?step|step|iter(?:ation)?|update|it|checkpoint|ckpt)s?[=_-]*(\d+)", re.IGNORECASE
)
NAMED_EPOCH = re.compile(r"(?<![a-z])(?:epoch|ep|round)s?[=_-]*(\d+)", re.IGNORECASE)
NUMBER = re.compile(r"\d+")
FRACTION = re.compile(r"\d+\.\d+(?:e[+-]?\d+)?", re.IGNORECASE)
"""A loss or a metric, and no count of steps."""
COPIES = 3
"""Files that may be of one step: the best, the last and a numbered one."""
BEYOND = 2
"""How many times the largest number in a name a counter may be, for both to count the same."""
SUFFIXES = tuple(suffix for suffix in FILE_SUFFIXES if suffix not in (".npy",))


@dataclass(frozen=True)
class Order:
    """What the step of a checkpoint is taken from."""

    by: str
    """`counter`, `name` or `time`."""
    entry: str = ""
    """The entry of the file that counts, where `by` is `counter`."""
    named: bool = False
    """Whether the number in its name stands in where a file has no such entry."""

    def __str__(self) -> str:
        """`by the checkpoints' own counter 'global_step'`."""
        if self.by == "counter":
            names = ", of those without it by the number in their names" if self.named else ""
            return f"by the checkpoints' own counter '{safe_text(self.entry, 40)}'{names}"
        return {"name": "by the number in their names", "time": "by the time they were written, as steps 0, 1, 2"}[
            self.by
        ]


def found_files(words: Sequence[str]) -> list[Path]:
    """The files that words name: files, folders (their model files, one level of folders down), and patterns.

    Raises:
        UsageError: a word that names nothing, or folders without a model file and nothing else.
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
    if not files:
        raise UsageError(
            f"'{safe_text(words[0])}' holds no checkpoint: no file that ends in {', '.join(SUFFIXES[:4])} or the like, "
            "nor a folder of such; name the files themselves, or a pattern: 'ckpt/*'"
        )
    return first_parts(files)


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
    found = _number(path)
    return None if found is None else found[1]


def _number(path: Path) -> tuple[str, int] | None:
    """What the number counts, `update`, `epoch` or nothing that is said, and the number."""
    for name in (path.name, path.parent.name):
        stem = name
        while stem.lower().endswith(SUFFIXES):
            stem = PART.sub("", stem).rpartition(".")[0]
        counted = FRACTION.sub(" ", stem)
        for kind, pattern, text in (
            ("update", NAMED, counted),
            ("epoch", NAMED_EPOCH, counted),
            ("", NUMBER, counted),
            ("", NUMBER, stem),
        ):
            if found := pattern.findall(text):
                return kind, int(found[-1][:15])
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

    A counter serves where every file has it, or has a number of the same kind in its name. Two files may share a step,
    as the best one and a numbered one do, where nothing tells all of them apart.
    """
    every = list(files)
    counted = [Order("counter", entry) for entry in COUNTERS]
    mixed = [Order("counter", entry, named=True) for entry in COUNTERS if _is_one_scale(every, entry)]
    for most, orders in ((1, [*counted, Order("name"), *mixed]), (COPIES, [*counted, *mixed])):
        for order in orders:
            steps = [step_of(path, counters, order) for path, counters in every]
            times = Counter(steps)
            if every and None not in times and max(times.values()) <= most and len(times) >= min(2, len(every)):
                return order
    return Order("time")


def _is_one_scale(files: Sequence[tuple[Path, Mapping[str, int]]], entry: str) -> bool:
    """Whether the numbers in names count what an entry of other files counts, as far as the files tell.

    Where a file has both they are the same. Without such a file, a number behind no word may count anything: the
    counter is then not far beyond it.
    """
    both = [(counters[entry], _named(path, entry)) for path, counters in files if entry in counters]
    if known := [counter == step for counter, step in both if step is not None]:
        return all(known)
    bare = [found[1] for path, counters in files if entry not in counters and (found := _number(path)) and not found[0]]
    return bool(both) and (not bare or max(counter for counter, _ in both) <= BEYOND * max(bare))


def _named(path: Path, entry: str) -> int | None:
    """The number in a name that may count the same as an entry: updates or epochs."""
    found = _number(path)
    return None if found is None or found[0] not in ("", _kind(entry)) else found[1]


def _kind(entry: str) -> str:
    return "epoch" if entry in EPOCHS else "update"


def step_of(path: Path, counters: Mapping[str, int], order: Order) -> int | None:
    """The step of one checkpoint; None where `order` does not tell (for time, it is the place that counts)."""
    if order.by == "name":
        return number_in(path)
    if order.by == "counter" and order.entry not in counters and order.named:
        return _named(path, order.entry)
    return counters.get(order.entry) if order.by == "counter" else None

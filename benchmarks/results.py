"""Figures of a run, and how they are shown: a table, JSON, Markdown."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks import jax_peer
from benchmarks.figure import Figure
from gradscope import __version__

SCHEMA = "gradscope.benchmarks/1"
HEADS = ("compared with", "measured", "goal", "reached", "gradscope", "other")
SIGNS = {"at least": ">=", "at most": "<="}
QUICK = "small sizes: this shows that every row runs; the goals are meant for the full sizes"


@dataclass(frozen=True)
class Results:
    """What a run found."""

    command: str
    quick: bool
    figures: Sequence[tuple[str, Figure]]
    """By the name of their row."""
    seconds: float


def environment() -> dict[str, str]:
    """Versions and the machine."""
    return {
        "gradscope": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "jax": jax_peer.version() or "not installed",
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
    }


def as_json(results: Results) -> str:
    """One object; a row for every comparison."""
    found = {
        "schema": SCHEMA,
        "command": results.command,
        "quick": results.quick,
        "environment": environment(),
        "rows": [_entry(name, figure) for name, figure in results.figures],
        "seconds": results.seconds,
    }
    return json.dumps(found, indent=2, allow_nan=False) + "\n"


def _entry(name: str, figure: Figure) -> dict[str, object]:
    entry = asdict(figure)
    value = entry.pop("value")
    finite = value is None or math.isfinite(value)
    return {"row": name, "ratio": value if finite else str(value), **entry, "reached": figure.reached}


def table(results: Results) -> Table:
    """For the terminal."""
    made = Table(title=QUICK if results.quick else None, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in HEADS:
        made.add_column(head, justify="left" if head in ("compared with", "reached") else "right")
    for name, figures in groupby(results.figures, key=lambda found: found[0]):
        made.add_section()
        made.add_row(f"[bold]{name}[/]")
        for _, figure in figures:
            made.add_row(*_cells(figure))
    return made


def lines(results: Results) -> list[str]:
    """Under the table: what was done on which sizes, with everything that was noted."""
    found: dict[str, list[str]] = {}
    for name, figure in results.figures:
        said = found.setdefault(f"{name}: {figure.work}; {figure.size}", [])
        said += [note for note in figure.notes if note not in said]
    return [f"{what}; {'; '.join(notes)}" if notes else what for what, notes in found.items()]


def versions() -> str:
    """The environment in one line."""
    return ", ".join(f"{name} {value}" for name, value in environment().items())


def markdown(results: Results) -> str:
    """The page that is kept with the code."""
    rows = ["| " + " | ".join((name, *_cells(figure))) + " |" for name, figure in results.figures]
    head = ["| " + " | ".join(("row", *HEADS)) + " |", "|" + "---|" * (len(HEADS) + 1)]
    said = [f"- {line}" for line in lines(results)]
    text = [
        "# Benchmarks",
        "",
        f"Found by `{results.command}` in {results.seconds:.0f} s. Every ratio is one of medians measured side by",
        "side, round after round, in that run; times depend on the machine, ratios much less.",
        *(["", f"**{QUICK}**"] if results.quick else []),
        "",
        *head,
        *rows,
        "",
        "## Sizes and notes",
        *said,
        "",
        f"{versions()}.",
    ]
    return "\n".join(text) + "\n"


def _cells(figure: Figure) -> tuple[str, ...]:
    """A row of the table, in the order of `HEADS`."""
    reached = {None: "-", True: "yes", False: "no"}[figure.reached]
    goal = "-" if figure.goal is None else f"{SIGNS[figure.sense]} {figure.goal:g}"
    measured = "-" if figure.value is None else f"{figure.value:.3g} {figure.unit}"
    return (figure.against, measured, goal, reached, _time(figure.seconds), _time(figure.other_seconds))


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _processor() -> str:
    """Name of the processor."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"

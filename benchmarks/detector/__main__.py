"""`python -m benchmarks.detector [--resume|--fresh|--twins|--fixed|--score]`: train, then score by the outcomes."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.detector.catalogue import Combination, combinations
from benchmarks.detector.fresh import fresh, fresh_outcome
from benchmarks.detector.outcome import outcome
from benchmarks.detector.twins import wanted

RUNS = Path(__file__).with_name("runs.jsonl")


def main(words: list[str] | None = None) -> int:
    """Run what is missing, one line a combination, then write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detector", description=__doc__)
    parser.add_argument("--resume", action="store_true", help="keep what runs.jsonl holds and go on")
    parser.add_argument("--seconds", type=float, default=3 * 3600, help="start no training after this many seconds")
    parser.add_argument("--runs", type=Path, default=RUNS, help="the file of outcomes")
    parser.add_argument("--first", type=int, default=0, help="begin at this place of the list, beside another process")
    parser.add_argument("--score", action="store_true", help="train nothing, score what is there")
    parser.add_argument("--fresh", action="store_true", help="train the second study into fresh.jsonl, always resumed")
    parser.add_argument("--twins", action="store_true", help="train twins of what failed, into twins.jsonl, resumed")
    parser.add_argument("--fixed", action="store_true", help="train blocked models with their best measured remedy")
    given = parser.parse_args(words)
    if given.fixed:
        fix(given.runs, given.seconds)
    elif given.twins:
        missing = wanted([*read(given.runs), *read(given.runs.with_name("fresh.jsonl"))])
        train(given.runs.with_name("twins.jsonl"), given.seconds, resume=True, first=given.first, wanted=missing)
    elif given.fresh:
        train(
            given.runs.with_name("fresh.jsonl"),
            given.seconds,
            resume=True,
            first=given.first,
            wanted=fresh(),
            run=fresh_outcome,
        )
    elif not given.score:
        train(given.runs, given.seconds, resume=given.resume, first=given.first)
    from benchmarks.detector.page import write

    write(given.runs)
    return 0


def train(
    runs: Path,
    seconds: float,
    *,
    resume: bool,
    first: int = 0,
    wanted: Sequence[Combination] | None = None,
    run: Callable[[Combination], dict[str, Any]] = outcome,
) -> None:
    """Append an outcome for every combination that has none, until the time is up."""
    torch.set_num_threads(1)
    if not resume:
        runs.unlink(missing_ok=True)
    done = {line["name"] for line in read(runs)} if runs.exists() else set()
    begun, wanted = time.perf_counter(), combinations() if wanted is None else wanted
    for place, one in enumerate(wanted[first:], first + 1):
        if time.perf_counter() - begun > seconds:
            break
        if one.name in done:
            continue
        made = {"name": one.name, **run(one)}
        with runs.open("a", encoding="utf-8") as file:
            file.write(json.dumps(made, allow_nan=False) + "\n")
        learned = sum(seed["learned_at"] is not None for seed in made["seeds"])
        sys.stderr.write(f"{place}/{len(wanted)} {one.name}: {learned} of {len(made['seeds'])} seeds\n")


def fix(runs: Path, seconds: float) -> None:
    """Append what became of every blocked model that has no line yet, the cheapest first."""
    from benchmarks.detector.fixed import blocked, fixed

    torch.set_num_threads(1)
    path = runs.with_name("fixed.jsonl")
    done = {line["name"] for line in read(path)} if path.exists() else set()
    begun, fresh_runs, twins = time.perf_counter(), runs.with_name("fresh.jsonl"), runs.with_name("twins.jsonl")
    rows = blocked([*read(runs), *read(fresh_runs)], read(twins))
    for row in sorted(rows, key=lambda row: float(row["seconds"])):
        if row["name"] in done or time.perf_counter() - begun > seconds:
            continue
        found = fixed(row)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")
        told = "; ".join(f"{one['remedy']} {one['learned_at']}" for one in found["tried"])
        sys.stderr.write(f"{row['name']}: {told}\n")


def read(runs: Path) -> list[dict]:
    """Outcomes; a half-written last line is left out."""
    found = []
    for line in runs.read_text(encoding="utf-8").splitlines() if runs.exists() else ():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


if __name__ == "__main__":
    sys.exit(main())

"""`python -m benchmarks.training adding`, `... shakespeare TEXT`, and `... opening FILE` on what they wrote."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from benchmarks.training import adding, opening, shakespeare

HERE = Path(__file__).parent


def main(words: list[str]) -> int:
    """Train, or tell when the past opened."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("what", choices=("adding", "shakespeare", "opening"))
    parser.add_argument("file", nargs="?", type=Path, help="the text of shakespeare, the lines of opening")
    parser.add_argument("--log", type=Path, help="lines of JSON; in this folder when absent")
    parser.add_argument("--steps", type=int, default=1000, help="updates of adding")
    parser.add_argument("--minutes", type=float, default=10.0, help="of shakespeare")
    asked = parser.parse_args(words)
    torch.set_num_threads(1)
    log = asked.log or HERE / f"{asked.what}.jsonl"
    if asked.what == "adding":
        adding.run(log, asked.steps)
    elif asked.file is None:
        parser.error(f"{asked.what} needs a file")
    elif asked.what == "shakespeare":
        shakespeare.run(log, asked.file, asked.minutes)
    else:
        sys.stdout.write(opening.told(asked.file) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

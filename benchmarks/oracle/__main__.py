"""`python -m benchmarks.oracle [N] [--from SEED] [--wide | --written]`."""

from __future__ import annotations

import argparse
import collections
import sys
import time
import traceback

import torch

from benchmarks.oracle.compare import differences
from benchmarks.oracle.modules import draw, draw_wide, draw_written


def main(words: list[str]) -> int:
    """Try N modules; 1 where a report is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.oracle", description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=100)
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first seed")
    parser.add_argument("--wide", action="store_true", help="the wider grammar")
    parser.add_argument("--written", action="store_true", help="states and outputs written into tensors that exist")
    given = parser.parse_args(words)
    torch.set_num_threads(1)
    drawn = draw_written if given.written else draw_wide if given.wide else draw
    begun, wrong, kinds = time.perf_counter(), 0, collections.Counter()
    for seed in range(given.first, given.first + given.count):
        recipe = drawn(seed)
        try:
            found = differences(recipe)
        except Exception:
            found = [f"crash: {traceback.format_exc().strip().splitlines()[-1]}"]
        if found:
            wrong += 1
            sys.stdout.write(f"{recipe}\n" + "".join(f"    {line}\n" for line in found))
            kinds.update(line.split(":")[0] for line in found)
    seconds = time.perf_counter() - begun
    sys.stdout.write(f"{given.count} modules, {wrong} with a difference, {seconds:.0f} s\n")
    for kind, count in kinds.most_common():
        sys.stdout.write(f"  {count:5d}  {kind}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

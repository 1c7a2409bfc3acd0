"""`python -m benchmarks`, from the folder that holds this one."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console

from benchmarks import results
from benchmarks.measure import Effort
from benchmarks.rows import ROWS

PAGE = Path(__file__).parent / "RESULTS.md"


def main(words: list[str]) -> int:
    """Measure the rows asked for and show what was found; 0 whatever the goals, 2 for words it does not know."""
    given = _parser().parse_args(words)
    effort, told = Effort(quick=given.quick, whole=given.whole), Console(stderr=True, highlight=False)
    begun, figures = time.perf_counter(), []
    for name in given.row or ROWS:
        told.print(f"{name} ...")
        figures += [(name, figure) for figure in ROWS[name](effort)]
    command = " ".join(["python -m benchmarks", *words])
    found = results.Results(command, effort.quick, figures, time.perf_counter() - begun)
    page = given.output or (PAGE if given.markdown else None)
    if page is not None:
        page.write_text(results.markdown(found), encoding="utf-8")
        told.print(f"written: {page}", markup=False)
    if given.json:
        sys.stdout.write(results.as_json(found))
    else:
        _show(found)
    return 0


def _show(found: results.Results) -> None:
    out = Console(highlight=False)
    out.print(results.table(found))
    for line in [*results.lines(found), f"{results.versions()}; {found.seconds:.0f} s"]:
        out.print(line, markup=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="gradscope beside its peers and limits.")
    parser.add_argument("--row", action="append", choices=list(ROWS), metavar="NAME", help=f"only {', '.join(ROWS)}")
    parser.add_argument("--quick", action="store_true", help="small sizes: does every row run?")
    parser.add_argument("--whole", action="store_true", help="the sizes of the goals, however long they take")
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.add_argument("--markdown", action="store_true", help="also write benchmarks/RESULTS.md")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the Markdown page there instead")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`gradscope sweep`: many runs over axes; check, run what is missing, show, and show again."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Unpack, cast

import typer

from gradscope.cli.measure import ONLY_SCREEN, read_by, refuse_remedies
from gradscope.cli.options import RunFlags, SweepScreenFlags, option, spread
from gradscope.cli.output import Output, plan
from gradscope.cli.progress import ProgressBar
from gradscope.config import build_spec
from gradscope.config.axes import AXIS, read_axes
from gradscope.config.limits import coerce_limit
from gradscope.errors import UsageError
from gradscope.records import RunSpec
from gradscope.registry import SWEEP_FORMATS, SWEEP_RUNS, unknown
from gradscope.swept import Sweep, cells
from gradscope.text import safe_text
from gradscope.verdicts import RANKS

if TYPE_CHECKING:
    from gradscope.sweeps.plan import Plan
    from gradscope.sweeps.run_sweep import Ways


_SWEEP = "Sweep"


class SweepFlags(RunFlags, SweepScreenFlags, total=False):
    """What is varied, and how runs are done."""

    format: Annotated[
        str | None, option("Output", "text, json, csv, markdown or parquet.", "--format", envvar="GRADSCOPE_FORMAT")
    ]
    over: Annotated[
        list[str] | None,
        option(
            _SWEEP, "Axis: forget_bias=0:6:1, hidden=32,64, gain=log:0.1:10:5. Repeatable; more may follow.", "--over"
        ),
    ]
    run: Annotated[str | None, option(_SWEEP, "What is run at each point: analyze.", "--run")]
    jobs: Annotated[
        int | None,
        option(_SWEEP, "Runs at the same time. Default: the cores.", "--jobs", "-j", envvar="GRADSCOPE_JOBS"),
    ]
    threads: Annotated[
        int | None, option(_SWEEP, "Threads of a run, which its last bits depend on. Default 1.", "--threads")
    ]
    timeout: Annotated[
        float | None, option(_SWEEP, "Seconds for one run. Default 600.", "--timeout", envvar="GRADSCOPE_TIMEOUT")
    ]
    retries: Annotated[int | None, option(_SWEEP, "Tries again of a run that was killed. Default 2.", "--retries")]
    retry_failed: Annotated[bool, option(_SWEEP, "Try runs that failed before again.", "--retry-failed")]
    scheduler: Annotated[
        str | None,
        option(_SWEEP, "Dask scheduler: tcp://host:8786, or its file.", "--scheduler", envvar="GRADSCOPE_SCHEDULER"),
    ]
    min_healthy: Annotated[
        str | None, option(_SWEEP, "Exit 1 unless this part of the points is healthy: 0.9 or 90%.", "--min-healthy")
    ]


STORE = "sweep.db"
"""Where results are kept unless -o names a file that ends so."""
SUFFIXES = (".db", ".sqlite", ".sqlite3")
_SWEEP_ONLY = frozenset(SweepFlags.__annotations__) - frozenset(RunSpec.__annotations__)
"""What is no setting of a run."""


def run_sweep(words: list[str], flags: SweepFlags) -> int:
    """Check everything that can be wrong, do what is missing, show the whole, and return the exit code.

    Raises:
        UsageError: the request cannot be carried out.
        KeyboardInterrupt: after what is done has been kept.
    """
    if flags.get("show"):
        raise UsageError("--show draws pictures of one analysis; a sweep shows a number in its cells with --shade")
    refuse_remedies(flags, "a sweep")
    path, files = _store(flags.get("output") or [])
    planned, spec = _planned(words, flags)
    ways, least = _ways(flags), _least(flags)
    screen = cast(SweepScreenFlags, {**flags, "output": files, "show": None})
    inputs = [name for name in read_by(spec) if name]
    output = plan(screen, os.environ, (*inputs, path), formats=SWEEP_FORMATS)
    from gradscope.sweeps.run_sweep import sweep

    gc.freeze()
    gc.enable()
    try:
        with ProgressBar(quiet=bool(flags.get("quiet")), alone=False) as progress:
            sweep(planned, path, ways, progress)
    except KeyboardInterrupt:
        kept = f"what was finished is kept in {safe_text(path)}, and the same command goes on"
        _say(f"stopped; {kept if Path(path).exists() else 'nothing was finished yet'}")
        raise
    found = _read(path, output)
    return output.write(found, exit_code(found, spec.fail_on, least))


def show_sweep(path: str, flags: SweepScreenFlags) -> int:
    """Render the sweep that was last worked on in a file."""
    output = plan(flags, os.environ, (path,), formats=SWEEP_FORMATS)
    return output.write(_read(path, output))


def exit_code(sweep: Sweep, fail_on: str, least: float | None) -> int:
    """1 when a run failed, a finding is at least as severe as `fail_on`, or too few points are healthy; else 0."""
    if any(run.state == "failed" or RANKS[run.worst] >= RANKS[fail_on] for run in sweep.runs):
        return 1
    if least is None:
        return 0
    healthy = sum(cell.status == "healthy" for cell in cells(sweep))
    return int(healthy < least * sweep.points)


def _planned(words: Sequence[str], flags: SweepFlags) -> tuple[Plan, RunSpec]:
    """The plan, and the settings that its runs share."""
    models = [word for word in words if not AXIS.fullmatch(word)]
    over = [*(flags.get("over") or []), *(word for word in words if AXIS.fullmatch(word))]
    given = {name: value for name, value in flags.items() if name not in ONLY_SCREEN | _SWEEP_ONLY | {"show"}}
    spec = build_spec({**given, "models": models or None}, cwd=Path.cwd(), environ=os.environ).spec
    axes = read_axes(over, models, spec.models)
    if not axes:
        raise UsageError("a sweep needs an axis; write gradscope sweep lstm --over forget_bias=0:6:1")
    for axis in axes:
        table, _, entry = axis.name.partition(".")
        held: Any = given.get(table)
        if held is not None and (not entry or any(str(one).startswith(f"{entry}=") for one in held)):
            raise UsageError(f"'{axis.name}' is an axis and also given by itself; keep one of them")
    name = flags.get("run") or "analyze"
    if name not in SWEEP_RUNS:
        raise UsageError(f"{unknown('run', name, SWEEP_RUNS)} (--run)")
    seeds = _seeds(spec, [axis.name for axis in axes])
    spec = replace(spec, seeds=1)
    threads = _at_least(flags, "threads", 1, 1)
    from gradscope.sweeps.plan import Plan

    return Plan(name, spec, axes, seeds, threads, os.getcwd()), spec


def _seeds(spec: RunSpec, names: Sequence[str]) -> tuple[int, ...]:
    for name in ("seed", "seeds"):
        if spec.seeds > 1 and name in names:
            raise UsageError(f"--seeds {spec.seeds} and the axis '{name}' both say which seeds; keep one of them")
    return tuple(range(spec.seed, spec.seed + spec.seeds))


def _ways(flags: SweepFlags) -> Ways:
    from gradscope.sweeps.run_sweep import Ways
    from gradscope.workers import cores

    timeout = flags.get("timeout")
    return Ways(
        jobs=_at_least(flags, "jobs", 1, cores()),
        timeout=Ways.timeout if timeout is None else coerce_limit("timeout", timeout, "--timeout"),
        retries=_at_least(flags, "retries", 0, Ways.retries),
        retry_failed=bool(flags.get("retry_failed")),
        scheduler=flags.get("scheduler"),
    )


def _least(flags: SweepFlags) -> float | None:
    least = flags.get("min_healthy")
    return None if least is None else float(coerce_limit("min_healthy", least, "--min-healthy"))


def _at_least(flags: Mapping[str, object], name: str, least: int, default: int) -> int:
    value = flags.get(name)
    if not isinstance(value, int):
        return default
    if value < least:
        raise UsageError(f"{name} is {value} (--{name}); it must be at least {least}")
    return value


def _store(files: Sequence[str]) -> tuple[str, list[str]]:
    """The file of the results, and the other files to be written."""
    stores = [file for file in files if file.lower().endswith(SUFFIXES)]
    if len(stores) > 1:
        raise UsageError(f"-o names {len(stores)} files of results ({safe_text(', '.join(stores))}); keep one")
    return (stores[0] if stores else STORE), [file for file in files if file not in stores]


def _read(path: str, output: Output) -> Sweep:
    """The sweep in a file with as many numbers as the formats show."""
    from gradscope.renderers.sweep_wording import NEEDED
    from gradscope.sweeps.read_sweep import read_sweep

    formats = {output.format, *(name for _, name in output.files)}
    every = bool(formats - {"text", "markdown"}) or bool(output.view.shade)
    return read_sweep(path, None if every else NEEDED)


def _say(text: str) -> None:
    if sys.stderr is not None:
        print(f"gradscope: {text}", file=sys.stderr)


@spread(SweepFlags)
def sweep(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="What analyze takes; several are an axis. Axes may stand here too.", metavar="MODEL..."),
    ] = None,
    **flags: Unpack[SweepFlags],
) -> int:
    """Where in the space of settings does the gradient flow?

    A phase diagram over axes; the same command goes on where it stopped.
    """
    return run_sweep(models or [], flags)

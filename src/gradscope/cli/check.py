"""`gradscope check`, a gate for CI: plan, measure, judge, and only then write."""

from __future__ import annotations

import gc
import os
import shlex
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Unpack, cast

import typer

from gradscope.atomic import unwritable
from gradscope.cli.measure import ONLY_SCREEN, read_by
from gradscope.cli.options import RunFlags, ScreenFlags, option, spread
from gradscope.cli.output import Output, check_writable, plan, written
from gradscope.cli.progress import ProgressBar
from gradscope.config.command import command
from gradscope.config.sources import from_flags
from gradscope.config.targets import Asked, Project, baseline_path, job_count
from gradscope.config.types import coerce
from gradscope.errors import UsageError
from gradscope.records import Report, RunSpec
from gradscope.registry import RENDERERS, load
from gradscope.renderers.view import View
from gradscope.text import safe_text
from gradscope.verdicts import fails

_GATE = "Gate"


class GateFlags(RunFlags, total=False):
    """How targets are run and judged."""

    jobs: Annotated[
        int | None,
        option(_GATE, "Targets at the same time. Default: the cores.", "--jobs", "-j"),
    ]
    timeout: Annotated[float | None, option(_GATE, "Seconds for one target. Default 600.", "--timeout")]
    min_reach: Annotated[int | None, option(_GATE, "Lags that every target must reach.", "--min-reach")]
    baseline: Annotated[str | None, option(_GATE, "File of what was measured before.", "--baseline")]
    max_drop: Annotated[str | None, option(_GATE, "How much worse than it. Default 10%.", "--max-drop")]
    update_baseline: Annotated[
        bool, option(_GATE, "Write the baseline anew; its findings are accepted.", "--update-baseline")
    ]
    exit_zero: Annotated[bool, option(_GATE, "Findings do not fail the run.", "--exit-zero")]
    junit_xml: Annotated[str | None, option(_GATE, "Also write JUnit XML.", "--junit-xml")]
    summary: Annotated[
        bool | None, option(_GATE, "Append to GITHUB_STEP_SUMMARY where that is set.", "--summary/--no-summary")
    ]


MOST_BYTES = 1024 * 1024
"""Bytes; GitHub drops the whole summary of a step that is larger."""
CUT_NOTE = "\n\n(cut: a summary holds 1 MiB)\n"


def append_summary(path: Path, report: Report) -> None:
    """Append the report as Markdown, as much of it as there is room for.

    Raises:
        UsageError: the file cannot be written.
    """
    content = load(RENDERERS["markdown"])(report, View()).encode()
    try:
        room = MOST_BYTES - (path.stat().st_size if path.exists() else 0)
        with open(path, "ab", buffering=0) as file:
            file.write(fitting(content, room))
    except OSError as error:
        raise unwritable(path, error) from error


def fitting(content: bytes, room: int) -> bytes:
    """Whole lines of `content` that fit into `room` bytes; fences that the cut left open are closed."""
    if len(content) <= room:
        return content
    ends = b"\n```" + CUT_NOTE.encode()
    kept = content[: max(0, room - len(ends))]
    kept = kept[: kept.rfind(b"\n") + 1]
    is_open = sum(line.startswith(b"```") for line in kept.splitlines()) % 2
    closed = kept + (ends if is_open else CUT_NOTE.encode())
    return closed if len(closed) <= room else b""


_LIMITS = ("min_reach", "max_drop", "timeout")
_GATE_ONLY = frozenset({*_LIMITS, "jobs", "baseline", "update_baseline", "exit_zero", "junit_xml", "summary"})
BRIEF = ("text", "github", "junit", "sarif")
"""Formats that show no series and no spectra."""


def check_targets(words: list[str], flags: GateFlags) -> int:
    """Check what can be wrong, measure every target apart, judge, write, and return the exit code.

    Raises:
        UsageError: the request cannot be carried out.
    """
    settings = {name: value for name, value in flags.items() if name not in ONLY_SCREEN | _GATE_ONLY | {"show"}}
    project = Project(Path.cwd(), os.environ, settings, {name: flags.get(name) for name in _LIMITS})
    asked = project.asked(words)
    baseline = baseline_path(project, flags.get("baseline"))
    update = bool(flags.get("update_baseline"))
    if update and baseline is None:
        raise UsageError(
            '--update-baseline needs a file; add --baseline FILE, or baseline = "FILE" to the configuration'
        )
    output = _output(flags, asked, baseline)
    if update and baseline is not None:
        check_writable(Path(baseline))
        for path, _ in output.files:
            if os.path.realpath(path) == os.path.realpath(baseline):
                raise UsageError(f"-o '{safe_text(path)}' would overwrite the baseline; choose another name")
    from gradscope.gate.baseline import write_entries
    from gradscope.gate.run import Gate, pass_through

    gate = Gate(
        targets=tuple(one.target for one in asked),
        source=project.source() if any(one.target.location for one in asked) else "command line",
        folder=project.folder,
        jobs=job_count(project, flags.get("jobs")),
        baseline=baseline,
        update=update,
        command=update_command(words, settings, flags),
        detail=any(name not in BRIEF for name in (output.format, *(name for _, name in output.files))),
    )
    gc.freeze()
    with ProgressBar(quiet=bool(flags.get("quiet")), alone=False) as progress:
        passage = pass_through(gate, progress)
    code = 0 if flags.get("exit_zero") else gate_code(passage.report)
    _tell(passage.traces if flags.get("verbose") else {})
    writes = output.writes(passage.report)
    if update and baseline is not None:
        writes.insert(0, partial(write_entries, Path(baseline), passage.entries))
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary and flags.get("summary") is not False:
        writes.insert(-1, lambda: append_summary(Path(summary), passage.report))
    return written(writes, code)


def update_command(words: list[str], settings: Mapping[str, Any], flags: GateFlags) -> str:
    """What writes the baseline of these targets again, with the settings and the file that this run was given."""
    given = from_flags(settings)
    spec = RunSpec((), **{name: coerce(name, value, given.shown[name]) for name, value in given.given.items()})
    line = shlex.split(command(spec, run="check"))[2:]
    limits = [part for name in _LIMITS if (value := flags.get(name)) is not None for part in (_flag(name), str(value))]
    file = ["--baseline", str(flags["baseline"])] if flags.get("baseline") else []
    return shlex.join(["gradscope", "check", *words, *line, *limits, *file, "--update-baseline"])


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def gate_code(report: Report) -> int:
    """1 when a finding of a target is at least as severe as that target's `fail_on`, else 0."""
    targets = report.check.targets if report.check is not None else ()
    return int(any(fails(m.verdicts, t.spec.fail_on) for t, m in zip(targets, report.models, strict=True)))


def _output(flags: GateFlags, asked: list[Asked], baseline: str | None) -> Output:
    screen = cast(ScreenFlags, {name: flags.get(name) for name in ScreenFlags.__annotations__})
    on_github = os.environ.get("GITHUB_ACTIONS") == "true"
    if screen.get("format") is None and on_github:
        screen = cast(ScreenFlags, {**screen, "format": "github"})
    specs = [one.target.spec for one in asked]
    inputs = [name for spec in specs for name in read_by(spec)]
    junit = flags.get("junit_xml")
    return plan(screen, os.environ, inputs=(*inputs, baseline), also=[(junit, "junit")] if junit else [])


def _tell(traces: dict[str, str]) -> None:
    for name, trace in traces.items():
        if sys.stderr is not None:
            lines = [safe_text(line, 1000) for line in trace.splitlines()]
            print("\n".join([f"{safe_text(name)}:", *lines]), file=sys.stderr)


@spread(GateFlags)
def check(
    targets: Annotated[
        list[str] | None,
        typer.Argument(help="Targets of pyproject.toml, or models. Default: all targets.", metavar="TARGET..."),
    ] = None,
    **flags: Unpack[GateFlags],
) -> int:
    """Did this commit break gradient flow? Exit code 1 if so."""
    return check_targets(targets or [], flags)

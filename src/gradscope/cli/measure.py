"""`gradscope analyze`, `compare` and `probe`: settings, measuring, writing, and the exit code."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Unpack, cast

import typer

from gradscope.cli.options import OneModel, RunFlags, ScreenFlags, spread
from gradscope.cli.output import aside, plan
from gradscope.cli.progress import ProgressBar
from gradscope.config import Rest, build_spec
from gradscope.config.check import refuse_idle
from gradscope.config.words import parse_model
from gradscope.errors import UsageError
from gradscope.records import ModelResult, Report, RunSpec
from gradscope.verdicts import fails

INTERRUPTED = 130
_READERS = ("attention", "transformer")
WITHOUT = {
    "gates": ("rnn", "lru", *_READERS),
    "attention": ("rnn", "gru", "lstm", "lru"),
    **dict.fromkeys(("heatmap", "spectrum", "exponents", "jacobians", "weights"), _READERS),
}
"""Families that have nothing for a chart."""
ONLY_SCREEN = frozenset(ScreenFlags.__annotations__) - {"show"}


def measure(models: list[str] | None, flags: RunFlags, *, compare: bool, rest: Rest | None = None) -> int:
    """Check everything that can be wrong, measure, write, and return the exit code.

    The verdict is taken before anything is written: a closed pipe or a full disk cannot turn red into green.

    Raises:
        UsageError: the request cannot be carried out.
    """
    wanted = {name: value for name, value in flags.items() if name not in ONLY_SCREEN}
    resolved = build_spec({"models": models, **wanted}, cwd=Path.cwd(), environ=os.environ, rest=rest)
    spec = resolved.spec
    if sys.stderr is not None and not flags.get("quiet"):
        sys.stderr.writelines(f"gradscope: {sentence}\n" for sentence in resolved.replaced)
    if compare and resolved.origin["models"] == "default":
        raise UsageError("compare needs models; write gradscope compare rnn lstm attention")
    # The model that stands in where none is named reads what it would read by its name.
    refuse_idle([spec], resolved.origin)
    if not compare and len(spec.models) > 1:
        raise UsageError(f"analyze takes one model, not {len(spec.models)}; write gradscope compare for several")
    screen = cast(ScreenFlags, {**flags, "show": list(spec.show)})
    output = plan(screen, os.environ, inputs=read_by(spec))
    for chart in output.view.charts:
        if not can_draw(chart, spec, compare=compare):
            raise UsageError(f"nothing to draw for --chart {chart}: {' '.join(spec.models)} has nothing for it")
    from gradscope.examine import full_report

    # What the imports made stays to the end; only what the analysis makes is worth collecting.
    gc.freeze()
    gc.enable()
    with ProgressBar(quiet=bool(flags.get("quiet"))) as progress, aside() as shown:

        def begin(model: ModelResult) -> None:
            with shown():
                output.begin(model, progress.pause)

        early = begin if output.is_watched and not compare else None
        # Counting and timing costs takes longer than all the rest.
        costs = compare and output.shows_costs
        report = full_report(spec, costs=costs, detail=output.is_detailed, progress=progress, early=early)
    code = output.write(report, exit_code(report, spec.fail_on))
    interrupted = any(model.probe is not None and not model.probe.complete for model in report.models)
    return INTERRUPTED if interrupted else code


def refuse_remedies(flags: RunFlags, what: str) -> None:
    """Refuse to pass over what is asked about remedies where none are measured.

    Raises:
        UsageError: the flag, and the command that has it.
    """
    asked = next((name for name in ("fix", "save", "remedy") if flags.get(name)), None)
    if asked is not None:
        raise UsageError(
            f"--{asked} is about the remedies of one model, and {what} measures none; gradscope analyze does"
        )


def can_draw(chart: str, spec: RunSpec, *, compare: bool) -> bool:
    """Whether a report on these settings may hold something for a chart, as far as that is known before measuring."""
    if chart == "learning":
        return spec.probe
    if chart == "costs":
        return compare
    if chart == "words":
        return spec.text is not None or spec.input is not None or any(not parse_model(w).is_family for w in spec.models)
    return any(parse_model(word).name not in WITHOUT.get(chart, ()) for word in spec.models)


def exit_code(report: Report, fail_on: str) -> int:
    """1 when a finding is at least as severe as `fail_on`, else 0."""
    return int(any(fails(model.verdicts, fail_on) for model in report.models))


def read_by(spec: RunSpec) -> tuple[str | None, ...]:
    """Files that a run reads, and so must not write."""
    return (spec.input, spec.target, spec.weights, spec.vocab, spec.state, *spec.models)


@spread(RunFlags)
def analyze(
    model: OneModel = None,
    **flags: Unpack[RunFlags],
) -> int:
    """How far back can this model learn, and why not further?"""
    return measure([model] if model is not None else None, flags, compare=False)


@spread(RunFlags)
def compare(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="What analyze takes: rnn lstm attention.", metavar="MODEL..."),
    ] = None,
    **flags: Unpack[RunFlags],
) -> int:
    """Which of these models still hears the first step?

    Side by side, on the same sequence and seed.
    """
    return measure(models, flags, compare=True)


LAG, TASK = 50, "recall"
"""Where none is given."""


@spread(RunFlags)
def probe(
    model: OneModel = None,
    **flags: Unpack[RunFlags],
) -> int:
    """Does it learn at that lag? Short trainings of copies, beside a twin known to learn."""
    asked = cast(RunFlags, {**flags, "probe": True})
    return measure([model] if model is not None else None, asked, compare=False, rest=_rest)


def _rest(given: Mapping[str, Any]) -> dict[str, Any]:
    """A task and a lag where there are no data; of data, the next token of a text, numbers otherwise."""
    data, text = given.get("input"), given.get("text")
    if given.get("task") is None and (data is not None or text is not None):
        is_text = text is not None or Path(str(data)).suffix.lower() == ".txt"
        return {"loss": "ce" if is_text else "mse"}
    return {"needs_lag": LAG, "task": TASK}

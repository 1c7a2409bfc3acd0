"""Options that commands share: declared once as typed dictionaries, spread into a command's signature by `spread`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, TypedDict, TypeVar, get_type_hints

import typer

Command = TypeVar("Command", bound=Callable[..., int])

_RUN = "Model"
_OWN = "Your own model"
_SEQUENCE = "Sequence"
_JUDGE = "Judging"
_SCREEN = "Output"
_DIAGRAM = "Phase diagram"


def option(panel: str, text: str, *names: str, **more: Any) -> Any:
    """An option in a panel of the help; its default is what a weaker source of settings says."""
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=False, **more)


OneModel = Annotated[
    str | None,
    typer.Argument(help="lstm, lstm:forget_bias=5,hidden=128, a file, or module:attr. Default rnn.", metavar="MODEL"),
]


class ScreenFlags(TypedDict, total=False):
    """How a report is shown; everything here leaves the numbers alone."""

    format: Annotated[
        str | None,
        option(
            _SCREEN,
            "text, json, csv, markdown, html, svg, png, github, junit or sarif.",
            "--format",
            envvar="GRADSCOPE_FORMAT",
        ),
    ]
    output: Annotated[
        list[str] | None,
        option(_SCREEN, "Also write FILE; its suffix decides the format. Repeatable.", "--output", "-o"),
    ]
    color: Annotated[str | None, option(_SCREEN, "auto, always or never.", "--color", envvar="GRADSCOPE_COLOR")]
    width: Annotated[int | None, option(_SCREEN, "Columns of the screen.", "--width", envvar="GRADSCOPE_WIDTH")]
    ascii: Annotated[bool, option(_SCREEN, "No characters outside ASCII.", "--ascii", envvar="GRADSCOPE_ASCII")]
    steps: Annotated[
        str | None, option(_SCREEN, "Rows of the table: auto, all or a:b.", "--steps", envvar="GRADSCOPE_STEPS")
    ]
    show: Annotated[list[str] | None, option(_SCREEN, "Extra pictures: gates, steps, attention. Repeatable.", "--show")]
    chart: Annotated[
        list[str] | None,
        option(_SCREEN, "What svg and png show: profile (default), heatmap, spectrum ... Repeatable.", "--chart"),
    ]
    quiet: Annotated[bool, option(_SCREEN, "The verdict line only.", "--quiet", "-q")]
    verbose: Annotated[int, option(_SCREEN, "More numbers and reasons.", "--verbose", "-v", count=True)]


class SweepScreenFlags(ScreenFlags, total=False):
    """How a sweep is shown."""

    shade: Annotated[str | None, option(_DIAGRAM, "Number in a sweep's cells: reach, rate, lyapunov ...", "--shade")]
    x: Annotated[str | None, option(_DIAGRAM, "Axis that runs across.", "--x")]
    y: Annotated[str | None, option(_DIAGRAM, "Axis that runs down.", "--y")]


class RunFlags(ScreenFlags, total=False):
    """What is measured: the settings of RunSpec by name; None means that a weaker source decides."""

    hidden: Annotated[int | None, option(_RUN, "Hidden size. Default 64.", "--hidden")]
    layers: Annotated[int | None, option(_RUN, "Layers. Default 1.", "--layers")]
    input_size: Annotated[int | None, option(_RUN, "Features per step. Default 16, or the file's.", "--input-size")]
    state_size: Annotated[int | None, option(_RUN, "State size of a cell without initial_state.", "--state-size")]
    dtype: Annotated[str | None, option(_RUN, "float64 (default) or float32.", "--dtype")]
    device: Annotated[str | None, option(_RUN, "cpu (default), cuda, cuda:1, mps.", "--device")]
    seed: Annotated[int | None, option(_RUN, "Seed of weights and sequence. Default 0.", "--seed")]
    seeds: Annotated[int | None, option(_RUN, "Repeat with this many seeds. Default 1.", "--seeds")]

    key: Annotated[str | None, option(_OWN, "Which recurrence of a file: encoder.lstm.", "--key")]
    cell: Annotated[
        str | None, option(_OWN, "linear-concat or tanh-concat: --key is one matrix over (x, h).", "--cell")
    ]
    nonlinearity: Annotated[str | None, option(_OWN, "tanh (assumed) or relu, of an RNN in a file.", "--nonlinearity")]
    layout: Annotated[str | None, option(_OWN, "What a module takes: batch-first or time-first.", "--layout")]
    embedding: Annotated[str | None, option(_OWN, "Key of the embedding in the file, for text.", "--embedding")]
    vocab: Annotated[str | None, option(_OWN, "Tokens of the embedding: json, or one per line.", "--vocab")]
    weights: Annotated[str | None, option(_OWN, "Fill the module with this file.", "--weights")]
    args: Annotated[
        list[str] | None, option(_OWN, "Argument of your class or factory: hidden=64. Repeatable.", "--arg")
    ]
    state: Annotated[str | None, option(_OWN, "First state: .npy .npz .pt.", "--state")]
    trust: Annotated[
        bool | None, option(_OWN, "Files may run code: whole pickles, TorchScript, .pt2.", "--trust/--no-trust")
    ]
    import_path: Annotated[
        list[str] | None, option(_OWN, "Folder to import your classes from. Repeatable.", "--import-path")
    ]

    sequence: Annotated[str | None, option(_SEQUENCE, "random (default), zeros, impulse or sine.", "--sequence")]
    length: Annotated[int | None, option(_SEQUENCE, "Steps T. Default 200; of a file at most 2,000.", "--length")]
    batch: Annotated[int | None, option(_SEQUENCE, "Sequences. Default 8; of a file at most 64.", "--batch")]
    input: Annotated[str | None, option(_SEQUENCE, "Data: .csv .npy .npz .pt .txt .wav.", "--input", "-i")]
    columns: Annotated[list[str] | None, option(_SEQUENCE, "Columns of the file: names, numbers, 2-5.", "--columns")]
    scale: Annotated[str | None, option(_SEQUENCE, "none or standard (default for csv and wav).", "--scale")]
    text: Annotated[str | None, option(_SEQUENCE, "A sentence as the sequence.", "--text")]
    tokens: Annotated[str | None, option(_SEQUENCE, "Tokens of a text: word (default), char, byte.", "--tokens")]
    loss: Annotated[
        str | None,
        option(
            _SEQUENCE,
            "final (default), every, ce, mse, or file.py:fn, called fn(output) -> scalar with whatever your module "
            "returns; of a family, (batch, T, features).",
            "--loss",
        ),
    ]
    task: Annotated[
        str | None,
        option(
            _SEQUENCE,
            "A task in place of sequence and loss: recall, copy, adding, xor, parity, digits, or file.py:f, called "
            "f(batch, lag, generator) -> (x, target).",
            "--task",
        ),
    ]
    lags: Annotated[str | None, option(_SEQUENCE, "Lags that the data needs: fixed (assumed) or spread.", "--lags")]
    train_steps: Annotated[int | None, option(_SEQUENCE, "Steps of a probe's trainings. Default 800.", "--train-steps")]
    target: Annotated[str | None, option(_SEQUENCE, "File with the targets of ce and mse.", "--target")]

    needs_lag: Annotated[
        int | None, option(_JUDGE, "How many steps back the task must reach. Default: all.", "--needs-lag", "--lag")
    ]
    fix: Annotated[bool | None, option(_JUDGE, "Measure remedies on copies of the model.", "--fix/--no-fix")]
    save: Annotated[
        str | None,
        option(_JUDGE, "With --fix: write the best remedy's weights and PyTorch lines to this folder.", "--save"),
    ]
    remedy: Annotated[str | None, option(_JUDGE, "With --save: this remedy, such as chrono.", "--remedy")]
    probe: Annotated[
        bool | None, option(_JUDGE, "Train copies on --task too, remedies with --fix.", "--probe/--no-probe")
    ]
    anchors: Annotated[int | None, option(_JUDGE, "Steps the influence is measured from. Default 1.", "--anchors")]
    burn_in: Annotated[int | None, option(_JUDGE, "Steps left out of Lyapunov averages. Default: none.", "--burn-in")]
    item: Annotated[int | None, option(_JUDGE, "Sequence whose Jacobians are shown. Default 0.", "--item")]
    pair: Annotated[
        list[str] | None, option(_JUDGE, "How much one token depends on another: cat:was#2. Repeatable.", "--pair")
    ]
    select: Annotated[list[str] | None, option(_JUDGE, "Only these rules: GS1, GS201.", "--select")]
    ignore: Annotated[list[str] | None, option(_JUDGE, "Not these rules.", "--ignore")]
    preset: Annotated[
        list[str] | None, option(_JUDGE, "What another tool's rules say: smdebug, autotrainer. Repeatable.", "--preset")
    ]
    thresholds: Annotated[
        list[str] | None, option(_JUDGE, "Move a rule's limit: name=number. Repeatable.", "--threshold")
    ]
    fail_on: Annotated[str | None, option(_JUDGE, "Exit 1 from: never (default), warning, error.", "--fail-on")]


def spread(flags: Any) -> Callable[[Command], Command]:
    """Replace `**flags` in a command's signature by the entries of a typed dictionary, which Typer then reads.

    Args:
        flags: a TypedDict whose entries are `Annotated[type, typer.Option(...)]`.
    """
    entries = get_type_hints(flags, include_extras=True)

    def decorate(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True)
        kept = [item for item in own.parameters.values() if item.kind is not inspect.Parameter.VAR_KEYWORD]
        added = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=_default(entry), annotation=entry)
            for name, entry in entries.items()
        ]
        command.__signature__ = own.replace(parameters=[*kept, *added])  # type: ignore[attr-defined]
        return command

    return decorate


def _default(entry: Any) -> object:
    kind = entry.__origin__
    return False if kind is bool else 0 if kind is int else None

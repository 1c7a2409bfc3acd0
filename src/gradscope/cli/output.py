"""Where a report goes: the screen and files, checked before the measuring starts, written whole or not at all."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from gradscope.atomic import temporary, unwritable, write_file
from gradscope.cli.options import ScreenFlags, SweepScreenFlags
from gradscope.errors import UsageError
from gradscope.registry import CHARTS, FORMATS, SCREENS, Format, lacking, load, unknown
from gradscope.renderers.view import View
from gradscope.text import encoded, safe_text

if TYPE_CHECKING:
    from gradscope.records import ModelResult, Report
    from gradscope.swept import Sweep
    from gradscope.trajectory import Trajectory

COLORS = ("auto", "always", "never")
PICTURES = ("gates", "steps", "attention")
DRAWN = ("html", "svg", "png")
"""Formats that --chart is for."""
NARROWEST = 20
"""Columns; a terminal that says less (0 under some runners) is taken to have these."""


@dataclass(frozen=True)
class Output:
    """A checked plan: the format and view of the screen, and the files with their formats."""

    format: str
    view: View
    files: tuple[tuple[Path, str], ...]
    begun: list[str] = field(default_factory=list)
    """What of the screen has been shown already."""
    formats: Mapping[str, Format] = field(default_factory=lambda: FORMATS)
    """The forms of what is written."""

    @property
    def is_watched(self) -> bool:
        """Whether somebody looks at the screen while it is made."""
        return self.format == "text" and not self.view.quiet and sys.stdout is not None and sys.stdout.isatty()

    def begin(self, model: ModelResult, clear: Callable[[], None]) -> None:
        """Show verdict, sentence and picture as soon as they are known.

        Args:
            model: its result so far.
            clear: called before anything is written.
        """
        from gradscope.renderers.screen import beginning

        clear()
        self.begun[:] = [beginning(model, self.view)]
        emit(self.begun[0])

    @property
    def is_detailed(self) -> bool:
        """Whether anything but a short screen is asked for, so that every number must be measured."""
        shown = self.view.verbose > 0 or "steps" in self.view.show
        return shown or self._formats != {"text"}

    @property
    def shows_costs(self) -> bool:
        """Whether anything asked for shows what a training step costs; short screens and pictures of others do not."""
        shown = self.view.verbose > 0 or "costs" in self.view.charts
        return shown or not self._formats <= {"text", "svg", "png"}

    @property
    def _formats(self) -> set[str]:
        return {self.format, *(name for _, name in self.files)}

    def write(self, report: Report | Sweep | Trajectory, code: int = 0) -> int:
        """Write everything that can be written, files first: a closed pipe on the screen must not cost anybody a file.

        Returns:
            `code`, what the measuring came to; that of a usage error where it is 0 and something could not be written.
        """
        return written(self.writes(report), code)

    def writes(self, report: Report | Sweep | Trajectory) -> list[Callable[[], None]]:
        """What `write` does, one step for each file and the screen's at the end, so that one failing stops no other."""
        plain = replace(self.view, width=View.width, ascii=False, colour=False, quiet=False)
        steps = [partial(self._file, path, name, report, plain) for path, name in self.files]
        return [*steps, partial(self._screen, report)]

    def _file(self, path: Path, name: str, report: Report | Sweep | Trajectory, plain: View) -> None:
        write_file(path, _bytes(load(self.formats[name].renderer)(report, plain)))

    def _screen(self, report: Report | Sweep | Trajectory) -> None:
        content = load(self.formats[self.format].renderer)(report, self.view)
        if self.begun and isinstance(content, str):
            # The rest of a screen that has begun; all of it where what came later made it another one.
            content = content[len(self.begun[0]) :] if content.startswith(self.begun[0]) else f"\n{content}"
        emit(content, text=self.format == "text")


def written(writes: Sequence[Callable[[], None]], code: int) -> int:
    """Do each by itself: a failure to write is never green, hides no verdict, and costs no other file."""
    failed = False
    for write in writes:
        try:
            write()
        except UsageError as error:
            failed = True
            if sys.stderr is not None:
                print(f"gradscope: {error}", file=sys.stderr)
    return code or (UsageError.exit_code if failed else 0)


@contextmanager
def aside() -> Iterator[Callable[[], AbstractContextManager[object]]]:
    """What a user's code prints while it is measured goes to standard error: standard output belongs to the report.

    Yields:
        What gives standard output back for a while.
    """
    shown = sys.stdout
    with redirect_stdout(sys.stderr):
        yield lambda: redirect_stdout(shown)


def plan(
    flags: ScreenFlags | SweepScreenFlags,
    environ: Mapping[str, str],
    inputs: tuple[str | None, ...] = (),
    also: Sequence[tuple[str, str]] = (),
    formats: Mapping[str, Format] = FORMATS,
) -> Output:
    """Check formats, paths and looks.

    Args:
        flags: the screen's options.
        environ: the environment, for NO_COLOR, FORCE_COLOR and TERM.
        inputs: files the run reads; writing over one of them is refused.
        also: more files, with their formats.
        formats: the forms that what is written can take.

    Raises:
        UsageError: an unknown name, or a file that cannot be written.
    """
    name = flags.get("format") or "text"
    if name not in formats:
        raise UsageError(unknown("format", name, formats))
    for picture in flags.get("show") or ():
        if picture not in PICTURES:
            raise UsageError(unknown("picture", picture, PICTURES) + " (--show)")
    files: list[tuple[Path, str]] = []
    named = [(word, None) for word in flags.get("output") or ()]
    for word, kind in (*named, *also):
        path = Path(word)
        if any(os.path.realpath(path) == os.path.realpath(other) for other, _ in files):
            raise UsageError(f"-o '{safe_text(word)}' is given twice; name each file once")
        files.append((path, kind or _format_of(path, flags.get("format"), formats)))
        check_writable(path, inputs)
    _check_pictures(flags.get("chart") or (), {name, *(kind for _, kind in files)}, formats)
    return Output(name, view(flags, environ), tuple(files), formats=formats)


def _check_pictures(charts: Sequence[str], named: Collection[str], formats: Mapping[str, Format]) -> None:
    """Refuse what cannot be drawn before anything is measured."""
    for chart in charts:
        if chart not in (*CHARTS, *SCREENS):
            raise UsageError(unknown("chart", chart, (*CHARTS, *SCREENS)))
    if charts and not {*DRAWN} & {*named}:
        raise UsageError(f"--chart {charts[0]} needs a file to draw it in; add -o {charts[0]}.svg (or .png, .html)")
    for name in sorted(named):
        if reason := lacking(formats[name]):
            raise UsageError(f"{name} {reason}")


def view(flags: ScreenFlags | SweepScreenFlags, environ: Mapping[str, str]) -> View:
    """How the screen looks: its width, its characters, its colours."""
    given = flags.get("width")
    named = {name: str(cast(Mapping[str, object], flags).get(name) or "") for name in ("shade", "x", "y")}
    return View(
        width=given if given is not None else max(NARROWEST, shutil.get_terminal_size((80, 24)).columns),
        ascii=bool(flags.get("ascii")) or not is_unicode() or environ.get("TERM") == "dumb",
        colour=is_coloured(flags.get("color") or "auto", environ),
        steps=flags.get("steps") or "auto",
        verbose=flags.get("verbose") or 0,
        show=tuple(flags.get("show") or ()),
        charts=tuple(flags.get("chart") or ()),
        quiet=bool(flags.get("quiet")),
        shade=named["shade"],
        x=named["x"].replace("-", "_"),
        y=named["y"].replace("-", "_"),
    )


def is_coloured(choice: str, environ: Mapping[str, str]) -> bool:
    """--color decides, then NO_COLOR, then FORCE_COLOR (0 and empty count as unset), then the terminal.

    Raises:
        UsageError: `choice` is none of auto, always, never.
    """
    if choice not in COLORS:
        raise UsageError(unknown("color", choice, COLORS))
    if choice != "auto":
        return choice == "always"
    if environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR", "0") not in ("", "0"):
        return True
    return environ.get("TERM") != "dumb" and sys.stdout is not None and sys.stdout.isatty()


def is_unicode() -> bool:
    """Whether standard output takes every character."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    return encoding.lower().replace("-", "").replace("_", "").startswith("utf")


def emit(content: str | bytes, *, text: bool = True) -> None:
    """Write to standard output; a reader that has closed the pipe is not an error.

    Args:
        content: what to write; data formats are always UTF-8, text follows the screen's encoding.
        text: whether the content is for the eye.

    Raises:
        UsageError: standard output takes no more (a full disk).
    """
    if sys.stdout is None:
        return
    encoding = sys.stdout.encoding if text else "utf-8"
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(_bytes(content, encoding or "utf-8"))
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        silence()
    except OSError as error:
        silence()
        raise UsageError(f"cannot write to standard output: {safe_text(error.strerror)}; use -o FILE") from error


def silence() -> None:
    """Send the rest of standard output nowhere, so that the interpreter's last flush cannot fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def check_writable(path: Path, inputs: tuple[str | None, ...] = ()) -> None:
    """Try what the writing will do, so that a wrong path costs no measuring."""
    for source in inputs:
        if source and os.path.exists(source) and path.exists() and os.path.samefile(source, path):
            raise UsageError(f"-o '{safe_text(path)}' would overwrite the run's own input; choose another name")
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_dir() and not target.is_file():
        return
    try:
        if target.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        with temporary(target) as file:
            os.unlink(file.name)
    except OSError as error:
        raise unwritable(path, error) from error


def _format_of(path: Path, chosen: str | None, formats: Mapping[str, Format]) -> str:
    suffixes = {form.suffix: name for name, form in formats.items() if form.suffix}
    if path.suffix.lower() in suffixes:
        return suffixes[path.suffix.lower()]
    if chosen is not None:
        return chosen
    raise UsageError(
        f"-o '{safe_text(path)}' has no suffix that names a format (one of: {', '.join(suffixes)}); add one or --format"
    )


def _bytes(content: str | bytes, encoding: str = "utf-8") -> bytes:
    return content if isinstance(content, bytes) else encoded(content, encoding)

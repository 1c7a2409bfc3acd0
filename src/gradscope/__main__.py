"""main(): the only place where errors become exit codes."""

from __future__ import annotations

import gc
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from gradscope.errors import GradscopeError
from gradscope.text import safe_text

USAGE, BUG, INTERRUPTED = 2, 3, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0 fine, 1 findings at or above --fail-on, 2 usage, 3 a bug in gradscope, 130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    words, debug = _debug(words)
    try:
        code = _run(words)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except GradscopeError as error:
        code = _say(str(error), error.exit_code, debug)
    except SystemExit as leaving:
        code = _left(leaving)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        code = _say(f"bug in gradscope: {safe_text(what)}; run again with --debug for the traceback", BUG, debug)
    return _flushed(code)


def _debug(words: list[str]) -> tuple[list[str], bool]:
    """The command line without `--debug`, wherever it stands but as the value of another option or after `--`."""
    if "--debug" not in words:
        return words, False
    import typer

    from gradscope.cli.commands import build

    command: Any = typer.main.get_command(build(words))
    options = command.commands[words[0]].params if words[0] in command.commands else []
    takes = {name for one in options if not getattr(one, "is_flag", True) for name in one.opts}
    end = words.index("--") if "--" in words else len(words)
    places = {
        place for place, word in enumerate(words[:end]) if word == "--debug" and not {*words[place - 1 : place]} & takes
    }
    return [word for place, word in enumerate(words) if place not in places], bool(places)


def _run(words: list[str]) -> int:
    import typer

    from gradscope.cli.commands import build

    try:
        result = build(words)(words or ["--help"], prog_name="gradscope", standalone_mode=False)
    except typer.TyperException as error:
        return _say(_usage(error.format_message(), error), USAGE, debug=False)
    except typer.Abort:
        return INTERRUPTED
    if not words:
        # Nothing was asked for: the help is shown, and a script that meant to ask finds out.
        return USAGE
    return result if isinstance(result, int) else 0


def _usage(said: str, error: Exception) -> str:
    """Typer's complaint as one line that ends in the way out."""
    said = safe_text(" ".join(said.split()), limit=400).rstrip(".")
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "gradscope"
    return f"{said[:1].lower()}{said[1:]}; see {path} --help"


def _say(message: str, code: int, debug: bool) -> int:
    if sys.stderr is not None:
        if debug:
            traceback.print_exc()
        print(f"gradscope: {message}", file=sys.stderr)
    return code


def _left(leaving: SystemExit) -> int:
    """Typer exits 1 when the reader of a help text goes away; that is nobody's fault. Other exits keep their code."""
    if isinstance(leaving.__context__, BrokenPipeError):
        _silence()
        return 0
    return leaving.code if isinstance(leaving.code, int) else 0 if leaving.code is None else USAGE


def _silence() -> None:
    from gradscope.cli.output import silence

    sys.stdout = sys.__stdout__
    silence()


def _flushed(code: int) -> int:
    """A reader that went away (`| head`) changes nothing about the verdict."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _silence()
    except OSError:
        return code or USAGE
    return code


def run() -> NoReturn:
    """Be the process: run the command line, then leave at once.

    Taking torch's modules apart at exit and collecting garbage while they load take as long as a whole analysis, and
    a process that ends needs neither.
    """
    gc.disable()
    code = main()
    if sys.stderr is not None:
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    run()

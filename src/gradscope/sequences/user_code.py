"""A function of the user's own, named `path/to/file.py:function`."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gradscope.errors import UsageError
from gradscope.files.paths import existing_file
from gradscope.registry import unknown
from gradscope.text import safe_text


def load_function(reference: str, flag: str) -> Callable[..., Any]:
    """The function that `path/to/file.py:function` names. Runs the file, which may import its neighbours.

    Raises:
        UsageError: no such file or function, not callable, or the file itself fails.
    """
    file, colon, name = reference.rpartition(":")
    shown = safe_text(reference)
    if not colon or not file.endswith(".py") or not name:
        raise UsageError(f"{flag} '{shown}' names no function; write path/to/file.py:function")
    path = existing_file(file, flag).resolve()
    spec = importlib.util.spec_from_file_location(f"gradscope_user_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{flag} '{shown}' is no Python file; write path/to/file.py:function")
    module = importlib.util.module_from_spec(spec)
    # dataclasses and pickle look their module up by name
    sys.modules[spec.name] = module
    with _neighbours(path.parent), user_code(f"{flag} '{shown}': importing the file"):
        spec.loader.exec_module(module)
    if not hasattr(module, name):
        public = [known for known, value in vars(module).items() if callable(value) and not known.startswith("_")]
        raise UsageError(f"{flag} '{shown}': {unknown('function', name, [safe_text(known, 40) for known in public])}")
    function = getattr(module, name)
    if not callable(function):
        raise UsageError(f"{flag} '{shown}' is a {type(function).__name__}, not a function; name a function")
    loaded: Callable[..., Any] = function
    return loaded


@contextlib.contextmanager
def user_code(what: str) -> Iterator[None]:
    """Turn any failure of the user's code into one line; what it prints goes to stderr, away from the report.

    Raises:
        UsageError: the code raised, or asked the process to exit.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}".rstrip(": ")
        raise UsageError(f"{what} failed: {safe_text(reason)}; run it by itself or pass --debug") from error


@contextlib.contextmanager
def _neighbours(folder: Path) -> Iterator[None]:
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = before

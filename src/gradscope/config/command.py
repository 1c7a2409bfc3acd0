"""The command that makes a run, and the set-up behind it: everything that decides its numbers and its status."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import Any

from gradscope.config.check import idle
from gradscope.config.sources import from_environment, from_files
from gradscope.config.types import coerce
from gradscope.config.words import names_path, relative
from gradscope.errors import UsageError
from gradscope.records import RunSpec

SHOWING = ("models", "fail_on", "show", "pair")
ALWAYS = ("seed", "dtype", "device")
FILES = ("input", "target", "state", "vocab")
"""Settings that name data, which decides the numbers just as the setting does."""


def setup_of(spec: RunSpec, folder: Path) -> dict[str, Any]:
    """Settings that differ from their defaults, by name; paths as seen from `folder`, data files with their hash."""
    defaults = RunSpec()
    found: dict[str, Any] = {"model": _from(folder, "models", spec.models[0])}
    for item in fields(spec):
        value = getattr(spec, item.name)
        if item.name in SHOWING or (item.name not in ALWAYS and value == getattr(defaults, item.name)):
            continue
        found[item.name] = value
        if isinstance(value, str):
            found[item.name] = _from(folder, item.name, value)
        elif isinstance(value, tuple):
            found[item.name] = [_from(folder, item.name, part) for part in value]
        if item.name in FILES and (digest := _digest(value)):
            found[item.name] += f" {digest}"
    return found


def _from(folder: Path, setting: str, value: str) -> str:
    """The path in `file.py:attr` or `data.csv`, from a folder; anything else stays what it is."""
    path, colon, attribute = value.partition(":")
    if not names_path(setting, value) or not os.path.exists(path):
        return value
    return relative(path, folder) + colon + attribute


def _digest(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError:
        return ""


NAMES = {"args": "--arg", "thresholds": "--threshold"}
SCREEN = ("models", "show", "fail_on")


def command(spec: RunSpec, always: Collection[str] = (), *, run: str = "analyze", without: Collection[str] = ()) -> str:
    """`gradscope analyze lstm:forget_bias=5 --length 50`: a command, its models and its settings.

    Args:
        spec: the settings; those are written that differ from the defaults, or from what files or variables say here.
        always: names of settings that are written all the same.
        run: the command.
        without: names of settings that are left out.
    """
    default, words, here, unread = RunSpec(), ["gradscope", run, *spec.models], _given_here(), idle(spec)
    for item in fields(spec):
        value, name = getattr(spec, item.name), item.name
        otherwise = any(one != value for one in (getattr(default, name), *here.get(name, ())))
        if name in (*SCREEN, *without, *unread) or value is None or not (otherwise or name in always):
            continue
        flag = NAMES.get(name, "--" + name.replace("_", "-"))
        if value is True:
            words.append(flag)
        elif isinstance(value, dict):
            words += [word for key, entry in value.items() for word in (flag, f"{key}={entry}")]
        elif isinstance(value, tuple):
            words += [word for entry in value for word in (flag, entry)]
        elif value is False:
            words.append(flag.replace("--", "--no-", 1))
        else:
            words += [flag, str(value)]
    return shlex.join(words)


def _given_here() -> dict[str, list[Any]]:
    """What files and variables would make of a line without flags: every value that one of them has for a setting."""
    found: dict[str, list[Any]] = {}
    try:
        for source in (*from_files(Path.cwd()), from_environment(os.environ)):
            for name, value in source.given.items():
                found.setdefault(name, []).append(coerce(name, value, source.shown[name]))
    except (OSError, UsageError):
        return {}  # a folder or file that cannot be read gives no line other settings
    return found

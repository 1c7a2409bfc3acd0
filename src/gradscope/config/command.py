"""The command that makes a run: what a reader types to see it whole."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from dataclasses import fields

from gradscope.records import RunSpec

NAMES = {"args": "--arg", "thresholds": "--threshold"}
SCREEN = ("models", "show", "fail_on")


def command(spec: RunSpec, always: Collection[str] = (), *, run: str = "analyze", without: Collection[str] = ()) -> str:
    """`gradscope analyze lstm:forget_bias=5 --length 50`: a command, its models and its settings.

    Args:
        spec: the settings; those that differ from the defaults are written.
        always: names of settings that are written all the same.
        run: the command.
        without: names of settings that are left out.
    """
    default, words = RunSpec(), ["gradscope", run, *spec.models]
    for item in fields(spec):
        value, name = getattr(spec, item.name), item.name
        if name in (*SCREEN, *without) or value is None or (value == getattr(default, name) and name not in always):
            continue
        flag = NAMES.get(name, "--" + name.replace("_", "-"))
        if value is True:
            words.append(flag)
        elif isinstance(value, dict):
            words += [word for key, entry in value.items() for word in (flag, f"{key}={entry}")]
        elif isinstance(value, tuple):
            words += [word for entry in value for word in (flag, entry)]
        elif value is not False:
            words += [flag, str(value)]
    return shlex.join(words)

"""The command that makes a run: what a reader types to see it whole."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from dataclasses import fields

from gradscope.records import RunSpec

NAMES = {"args": "--arg", "thresholds": "--threshold"}
SCREEN = ("models", "show", "fail_on")


def command(spec: RunSpec, always: Collection[str] = ()) -> str:
    """`gradscope analyze lstm:forget_bias=5 --length 50`: what differs from the defaults, and the settings `always`."""
    default, words = RunSpec(), ["gradscope", "analyze", *spec.models]
    for item in fields(spec):
        value = getattr(spec, item.name)
        if item.name in SCREEN or value is None or (value == getattr(default, item.name) and item.name not in always):
            continue
        flag = NAMES.get(item.name, "--" + item.name.replace("_", "-"))
        if value is True:
            words.append(flag)
        elif isinstance(value, dict):
            words += [word for key, entry in value.items() for word in (flag, f"{key}={entry}")]
        elif isinstance(value, tuple):
            words += [word for entry in value for word in (flag, entry)]
        elif value is not False:
            words += [flag, str(value)]
    return shlex.join(words)

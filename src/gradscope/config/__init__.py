"""Settings: flags > GRADSCOPE_* > gradscope.toml > [tool.gradscope] in pyproject.toml > defaults.

Checks names, types and ranges as far as no file has to be opened; every refusal names the setting's origin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gradscope.config.check import check
from gradscope.config.sources import Source, from_environment, from_files, from_flags
from gradscope.config.types import coerce
from gradscope.config.words import ModelWord, model_file, parse_model
from gradscope.records import RunSpec

__all__ = ["ModelWord", "Resolved", "Rest", "build_spec", "model_file", "parse_model", "settle"]


@dataclass(frozen=True)
class Resolved:
    """The settings of a run and, for each, where its value came from: `--length`, `gradscope.toml:3`, `default`."""

    spec: RunSpec
    origin: dict[str, str]


Rest = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""From the settings that were given to those that a command adds where nobody gave them."""


def build_spec(
    flags: Mapping[str, object | None], *, cwd: Path, environ: Mapping[str, str], rest: Rest | None = None
) -> Resolved:
    """Layer the sources of settings and check what can be checked without opening a file.

    Args:
        flags: RunSpec field -> value; None and () stand for a flag that was not given.
        cwd: where the search for configuration files starts, upwards.
        environ: the environment; GRADSCOPE_<FIELD> is read.
        rest: what the command adds.

    Raises:
        UsageError: an unknown name, a value of the wrong type, or one outside its range.
    """
    return settle([*from_files(cwd), from_environment(environ), from_flags(flags)], rest)


def settle(sources: Iterable[Source], rest: Rest | None = None) -> Resolved:
    """The settings that the sources give, weakest first, checked.

    Raises:
        UsageError: see `build_spec`.
    """
    values: dict[str, Any] = {}
    origin = {item.name: "default" for item in fields(RunSpec)}
    for source in sources:
        for name, value in source.given.items():
            origin[name] = source.shown[name]
            values[name] = coerce(name, value, origin[name])
    for name, value in (rest(values) if rest is not None else {}).items():
        if values.get(name) is None:
            values[name], origin[name] = value, "default"
    spec = RunSpec(**values)
    check(spec, origin)
    return Resolved(spec, origin)

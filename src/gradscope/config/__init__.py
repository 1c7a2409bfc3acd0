"""Settings: flags > GRADSCOPE_* > gradscope.toml > [tool.gradscope] in pyproject.toml > defaults.

Checks names, types and ranges as far as no file has to be opened; every refusal names the setting's origin.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gradscope.config.check import check, refuse_idle
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
    replaced: tuple[str, ...] = ()
    """Settings of a weaker source that a stronger one stands against, a sentence each."""


EXCLUSIVE = (
    ("input", "text"),
    *(("task", name) for name in ("input", "text", "target", "length", "columns", "loss")),
    ("state", "state_size"),
)
"""Settings that cannot be had together: a stronger source's word is instead of a weaker one's."""
COMES_WITH: Mapping[str, tuple[str, ...]] = {
    "models": ("key", "cell", "nonlinearity", "layout", "weights", "args", "state", "state_size"),
    "input": ("columns", "target"),
    "text": ("embedding",),
}
"""What is about the value of another setting, and goes with it."""
REMEDIES = ("save", "remedy")
"""What means nothing where `fix` is taken back."""
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


def settle(sources: Iterable[Source], rest: Rest | None = None, *, alone: bool = True) -> Resolved:
    """The settings that the sources give, weakest first, checked.

    Args:
        sources: files, variables, flags.
        rest: what the command adds.
        alone: whether they are all that the command runs, so that a flag that they do not read is read by nothing.

    Raises:
        UsageError: see `build_spec`.
    """
    values: dict[str, Any] = {}
    origin = {item.name: "default" for item in fields(RunSpec)}
    rank: dict[str, int] = {}
    sources = list(sources)
    replaced: list[str] = []
    for strength, source in enumerate(sources):
        given = {name: coerce(name, value, source.shown[name]) for name, value in source.given.items()}
        replaced += _leave_behind(values, origin, {name: source.shown[name] for name in given}, given)
        for name, value in given.items():
            values[name], origin[name], rank[name] = value, source.shown[name], strength
    replaced += displace(values, origin, rank)
    for name, value in (rest(values) if rest is not None else {}).items():
        if values.get(name) is None:
            # What a command adds is part of the command, as its flags are.
            values[name], origin[name], rank[name] = value, "default", len(sources) - 1
    replaced += displace(values, origin, rank)
    spec = RunSpec(**values)
    check(spec, origin)
    if alone and origin["models"] != "default":
        refuse_idle([spec], origin)
    return Resolved(spec, origin, tuple(replaced))


def _leave_behind(
    values: dict[str, Any], origin: dict[str, str], shown: Mapping[str, str], given: Mapping[str, Any]
) -> list[str]:
    """Take away what weaker sources say about a value that a stronger one, `given`, replaces by another.

    Returns:
        What was taken away, a sentence each.
    """
    said = []
    for name, companions in COMES_WITH.items():
        if name not in given or values.get(name) is None or _is_same(name, values[name], given[name]):
            continue
        for companion in companions:
            if values.get(companion) and companion not in given:
                about = f"it is about another {name.removesuffix('s')} than {name} ({shown[name]})"
                said.append(f"{companion} ({origin[companion]}) is left out: {about}")
                values.pop(companion)
                origin[companion] = "default"
    return said


def _is_same(name: str, one: Any, other: Any) -> bool:
    return bool(os.path.normpath(one) == os.path.normpath(other) if name == "input" else one == other)


def displace(values: dict[str, Any], origin: dict[str, str], rank: Mapping[str, int]) -> list[str]:
    """Take away what a stronger source contradicts in a weaker one; what one source says twice is left to `check`.

    Returns:
        What was taken away, a sentence each.
    """
    said = []
    if values.get("fix") is False:
        for name in REMEDIES:
            if name in values and rank[name] < rank["fix"]:
                said.append(f"{name} ({origin[name]}) is left out: no remedies are asked for ({origin['fix']})")
                values.pop(name)
                origin[name] = "default"
    for pair in EXCLUSIVE:
        if all(values.get(name) is not None for name in pair) and rank[pair[0]] != rank[pair[1]]:
            weaker, stronger = sorted(pair, key=lambda name: rank[name])
            said.append(f"{weaker} ({origin[weaker]}) is left out: {stronger} ({origin[stronger]}) is given")
            for name in (weaker, *(name for name in COMES_WITH.get(weaker, ()) if rank.get(name, -1) == rank[weaker])):
                values.pop(name, None)
                origin[name] = "default"
    return said

"""What `gradscope check` is asked: named targets from configuration files, or models named on the command line."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from gradscope.config import settle
from gradscope.config.axes import read_axes, spec_at
from gradscope.config.check import check, idle_of_all, refuse_idle
from gradscope.config.limits import check_limits, coerce_limit
from gradscope.config.sources import GATE, LIMITS, Source, Table, beside, from_environment, from_flags, tables
from gradscope.config.types import TYPES
from gradscope.config.words import PATHS, model_file, parse_model, relative, shown_path
from gradscope.errors import UsageError
from gradscope.records import Limits, Location, RunSpec, Target
from gradscope.registry import FAMILIES, unknown
from gradscope.text import safe_text

ENTRIES = ("model", "over", *(name for name in TYPES if name != "models"), *LIMITS)
"""What a target's table may hold."""
SEEDS = 5
"""Seeds of a target whose weights are drawn here: a reach of one draw moves by several lags with any change."""
NOTHING = (
    "nothing to check: no [tool.gradscope.targets.NAME] in pyproject.toml, no [targets.NAME] in gradscope.toml; "
    "write them with gradscope init, or name models: gradscope check rnn lstm --needs-lag 50"
)


@dataclass(frozen=True)
class Asked:
    """A target, and where each of its settings and limits came from."""

    target: Target
    origin: Mapping[str, str]
    points: tuple[RunSpec, ...]
    """The settings of its run, or of all its runs where it is a sweep."""


@dataclass(frozen=True)
class Project:
    """The configuration files of a folder, and what flags and variables lay over them.

    `flags` are settings of RunSpec by name, `limits` those of Limits; None stands for what was not given.
    """

    cwd: Path
    """What paths on the command line count from, and all that are handed on."""
    environ: Mapping[str, str]
    flags: Mapping[str, object | None]
    limits: Mapping[str, object | None]
    start: Path | None = None
    """Where the search for configuration files starts, upwards; `cwd` when None."""

    @cached_property
    def tables(self) -> Sequence[Table]:
        """The tables of the nearest folder upwards that has any, weakest first."""
        return tables(self.start or self.cwd)

    @property
    def folder(self) -> Path:
        """Where the configuration lies, and where the modules of its models are looked for."""
        return self.tables[-1].path.parent if self.tables else self.start or self.cwd

    @cached_property
    def written(self) -> Mapping[str, Table]:
        """The targets' own tables by name.

        Raises:
            UsageError: something in their place that is no table, or an entry that no target has.
        """
        found: dict[str, Table] = {}
        for table in self.tables:
            entries = table.content.get("targets", {})
            if not isinstance(entries, dict):
                raise UsageError(f"targets ({table.where('targets')}) is not a table; write [targets.NAME]")
            for name, content in entries.items():
                place = table.where("targets", name)
                if not isinstance(content, dict):
                    raise UsageError(f"target '{safe_text(name)}' ({place}) is not a table; write [targets.NAME]")
                found[name] = Table(table.path, (*table.key, "targets", name), content, table.text)
                _check_entries(found[name])
        return found

    def asked(self, words: Sequence[str]) -> list[Asked]:
        """The targets that `words` name, or all that are written down.

        Raises:
            UsageError: nothing to check, a word that is neither target nor model, or a setting that cannot be.
        """
        chosen = list(words or self.environ.get("GRADSCOPE_TARGETS", "").split() or self.written)
        if not chosen:
            raise UsageError(NOTHING)
        for word in chosen:
            if chosen.count(word) > 1:
                raise UsageError(f"target '{safe_text(word)}' is named twice; name each once")
        found = [self._named(word) if word in self.written else self._model(word) for word in chosen]
        refuse_idle([spec for one in found for spec in one.points], found[0].origin)
        return found

    def entry(self, name: str) -> tuple[Any, str] | None:
        """A variable's or a file's own entry such as `jobs`, and where it is; None where nothing has it."""
        variable = f"GRADSCOPE_{name.upper()}"
        if text := self.environ.get(variable):
            return toml_value(text), variable
        for table in reversed(self.tables):
            for key, value in table.content.items():
                if key.replace("-", "_") == name:
                    return value, table.where(key)
        return None

    def source(self) -> str:
        """`[tool.gradscope] in pyproject.toml`."""
        names = [f"[tool.gradscope] in {t.path.name}" if t.key else t.path.name for t in self.tables]
        return safe_text(" and ".join(names)) or "command line"

    def _named(self, name: str) -> Asked:
        table = self.written[name]
        if "model" not in table.content:
            raise UsageError(f"target '{safe_text(name)}' ({table.where()}) has no model; add model = \"lstm\"")
        where = table.where("model")
        model = _text("model", table.content["model"], where)
        own = table.source(self.cwd, skip=("model", "over", *LIMITS))
        location = Location(shown_path(table.path, self.cwd, self.environ), table.line())
        return self._settled(
            name,
            Source({"models": [beside("models", model, table.path.parent, self.cwd)]}, {"models": where}),
            [own],
            [table],
            location,
        )

    def _model(self, word: str) -> Asked:
        try:
            parse_model(word)
        except UsageError:
            if word.partition(":")[0] in FAMILIES:
                raise
            names = [*self.written, *FAMILIES]
            raise UsageError(
                unknown("target or model", word, names) + "; or a file of weights, or module:attr"
            ) from None
        return self._settled(word, Source({"models": [word]}, {"models": "TARGET"}), [], [], None)

    def _settled(
        self, name: str, model: Source, own: list[Source], tables: list[Table], location: Location | None
    ) -> Asked:
        """Files, then the target's table, then variables, then flags; the model is the target's in any case."""
        top = [table.source(self.cwd, skip=(*GATE, "models")) for table in self.tables]
        variables = {key: value for key, value in self.environ.items() if key != "GRADSCOPE_MODELS"}
        resolved = settle([*top, *own, from_environment(variables), from_flags(self.flags), model], alone=False)
        spec = resolved.spec
        if resolved.origin["fail_on"] == "default":
            spec = replace(spec, fail_on="error")
        if resolved.origin["seeds"] == "default" and _is_drawn(spec) and not (tables and "over" in tables[0].content):
            spec = replace(spec, seeds=SEEDS)
        limits, origin = self._limits(tables)
        check_limits(limits, spec, origin)
        over, points = _axes(tables[0], spec, resolved.origin, self.cwd) if tables else ((), [spec])
        written = {item: resolved.origin[item] for source in own for item in source.given}
        written |= {word.partition("=")[0].replace("-", "_"): tables[0].where("over") for word in over}
        for item, why in idle_of_all(points).items():
            if item in written:
                raise UsageError(f"{item} ({written[item]}) is read by nothing here: {why}; leave it out")
        return Asked(Target(name, spec, limits, location, over), {**resolved.origin, **origin}, tuple(points))

    def _limits(self, own: list[Table]) -> tuple[Limits, dict[str, str]]:
        values: dict[str, Any] = {}
        origin = dict.fromkeys(LIMITS, "default")
        for table in (*self.tables, *own):
            for key, value in table.content.items():
                name = key.replace("-", "_")
                if name in LIMITS:
                    origin[name] = table.where(key)
                    values[name] = coerce_limit(name, value, origin[name])
        for name in LIMITS:
            variable = f"GRADSCOPE_{name.upper()}"
            if text := self.environ.get(variable):
                origin[name] = variable
                values[name] = coerce_limit(name, toml_value(text), variable)
        for name, given in self.limits.items():
            if given is not None:
                origin[name] = "--" + name.replace("_", "-")
                values[name] = coerce_limit(name, given, origin[name])
        return Limits(**values), origin


def baseline_path(project: Project, flag: str | None) -> str | None:
    """The baseline file, as a path from the working folder: a flag counts from there, an entry from its file.

    Raises:
        UsageError: the entry is no text.
    """
    variable = project.environ.get("GRADSCOPE_BASELINE")
    entry = project.entry("baseline")
    if flag is not None or variable or entry is None:
        return flag or variable
    return relative(project.folder / _text("baseline", *entry), project.cwd)


def job_count(project: Project, flag: int | None) -> int | None:
    """How many targets run at the same time; None lets the cores decide.

    Raises:
        UsageError: less than one.
    """
    value, where = (flag, "--jobs") if flag is not None else project.entry("jobs") or (None, "")
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(f"jobs is '{safe_text(value)}' ({where}); expected a whole number of at least 1")
    return value


def _is_drawn(spec: RunSpec) -> bool:
    """Whether every seed draws the model's weights anew: not those of a file, and not where copies are trained."""
    word = spec.models[0]
    is_code = ":" in word and model_file(word) is None and spec.weights is None
    return (is_code or parse_model(word).is_family) and not spec.probe


def _check_entries(table: Table) -> None:
    for key in table.content:
        if key.replace("-", "_") not in ENTRIES:
            name = safe_text(table.key[-1])
            raise UsageError(f"{unknown('entry', key, ENTRIES)} of target '{name}' ({table.where(key)})")


def _axes(table: Table, spec: RunSpec, origin: Mapping[str, str], cwd: Path) -> tuple[tuple[str, ...], list[RunSpec]]:
    """The axes of a target that is a sweep, `over = ["forget_bias=0:6:1"]`, and the settings at its points.

    Raises:
        UsageError: no axes, or a point of them that cannot be.
    """
    if "over" not in table.content:
        for key in table.content:
            if key.replace("-", "_") == "min_healthy":
                raise UsageError(f'{key} ({table.where(key)}) is about a sweep; add over = ["forget_bias=0:6:1"]')
        return (), [spec]
    value, where = table.content["over"], table.where("over")
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise UsageError(f"over is '{safe_text(value)}' ({where}); expected axes such as [\"forget_bias=0:6:1\"]")
    words = [_axis_beside(word, table.path.parent, cwd) for word in words]
    try:
        axes = read_axes(words, spec.models, ())
    except UsageError as error:
        raise UsageError(f"{error} ({where})") from None
    points = [spec_at(spec, axes, texts) for texts in product(*(axis.values for axis in axes))]
    for point in points:
        check(point, {**origin, **{axis.name: where for axis in axes}})
    return tuple(words), points


def _axis_beside(word: str, folder: Path, cwd: Path) -> str:
    """An axis of a file, `input=a.npy,b.npy`, with paths that count from that file."""
    name, equals, text = word.partition("=")
    setting = "models" if name == "model" else name.replace("-", "_")
    if setting not in PATHS:
        return word
    return name + equals + ",".join(beside(setting, part.strip(), folder, cwd) for part in text.split(","))


def toml_value(text: str) -> Any:
    """What a variable says, as a file would: `50`, `[-0.1, 0.1]`, `{float32 = 50}`; else as it stands."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _text(name: str, value: object, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"{name} is '{safe_text(value)}' ({where}); expected a text that is not empty")
    return value.strip()

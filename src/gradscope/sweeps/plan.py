"""What a sweep is to run: its points, and for each run the settings and the key under which its result is kept."""

from __future__ import annotations

import ast
import hashlib
import json
import math
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property, lru_cache
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any

from gradscope import __version__
from gradscope.config.axes import spec_at
from gradscope.config.check import check, refuse_idle
from gradscope.config.command import setup_of
from gradscope.config.words import model_file, parse_model
from gradscope.errors import UsageError
from gradscope.records import RunSpec
from gradscope.swept import Axis
from gradscope.text import safe_text

FILES = ("weights", "input", "target", "loss", "task", "state", "vocab")
"""Settings that may name a file, which decides the numbers as the setting does."""
CODE = ("loss", "task")
"""Those of them that may name a function, `file.py:function`."""


@dataclass(frozen=True)
class Planned:
    """One run: its point, its seed, the key of its result, and the axes' values."""

    point: int
    seed: int
    key: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """A sweep that is to be run."""

    run: str
    """What is done at each point, a name in `registry.SWEEP_RUNS`."""
    base: RunSpec
    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    """Seeds of each point; a single one where the seed is an axis itself."""
    threads: int = 1
    folder: str = "."
    """Where the user's files and modules are looked for."""
    versions: dict[str, str] = field(default_factory=lambda: versions())

    def spec(self, texts: tuple[str, ...], seed: int) -> RunSpec:
        """The settings of one run."""
        spec = spec_at(self.base, self.axes, texts)
        return spec if self.own_seed else replace(spec, seed=seed)

    @cached_property
    def own_seed(self) -> bool:
        """Whether the seed is an axis."""
        return any(axis.name == "seed" for axis in self.axes)

    @property
    def count(self) -> int:
        """How many runs there are."""
        return math.prod(len(axis.values) for axis in self.axes) * len(self.seeds)

    def runs(self) -> Iterator[Planned]:
        """Every run, by point, then seed.

        Raises:
            UsageError: settings at a point that cannot be together; the message says at which.
        """
        origin = _origin(self.base, self.axes)
        refuse_idle((self.spec(texts, self.seeds[0]) for texts in self._points()), origin)
        for point, texts in enumerate(self._points()):
            for seed in self.seeds:
                spec = self.spec(texts, seed)
                check(spec, origin)
                yield Planned(point, seed, self.key(spec), texts)

    def _points(self) -> Iterator[tuple[str, ...]]:
        return product(*(axis.values for axis in self.axes))

    def key(self, spec: RunSpec) -> str:
        """What the result of a run is kept under: a hash of all that decides it."""
        setup = setup_of(spec, Path(self.folder))
        made = {name: self.versions[name] for name in ("gradscope", "torch")}
        judged = {"select": spec.select, "ignore": spec.ignore, "thresholds": spec.thresholds}
        files = {name: digest for name in named_files(spec) if (digest := _digest(name, _stamp(name)))}
        told = {"run": self.run, "setup": setup, "judged": judged, "files": files, "threads": self.threads, **made}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]

    def definition(self) -> str:
        """The sweep as text, equal for equal sweeps."""
        plain = {
            "run": self.run,
            "spec": settings_of(replace(self.base, fail_on=RunSpec.fail_on, show=RunSpec.show)),
            "axes": [asdict(axis) for axis in self.axes],
            "seeds": self.seeds,
            "threads": self.threads,
            "versions": self.versions,
        }
        return json.dumps(plain, sort_keys=True)


def settings_of(spec: RunSpec) -> dict[str, Any]:
    """The settings that differ from their defaults."""
    default = RunSpec()
    pairs = ((item.name, getattr(spec, item.name)) for item in fields(spec))
    return {name: value for name, value in pairs if name == "models" or value != getattr(default, name)}


def versions() -> dict[str, str]:
    """What results depend on beside their settings."""
    return {
        "gradscope": __version__,
        "torch": metadata.version("torch"),
        "python": platform.python_version(),
        "platform": platform.machine(),
    }


def named_files(spec: RunSpec) -> Iterator[str]:
    """Files that the settings name, the source of the user's code among them, and what that imports of theirs."""
    word = spec.models[0]
    if not parse_model(word).is_family:
        file = model_file(word)
        path = file[0] if file is not None else _source(word, spec.import_path, os.getcwd())
        yield from _with_imports(path, spec.import_path) if path is not None else ()
    for name in FILES:
        value = getattr(spec, name)
        if value and name in CODE and ".py:" in value:
            yield from _with_imports(value.rpartition(":")[0], ())
        elif value:
            yield value


@lru_cache(maxsize=1024)
def _source(word: str, folders: tuple[str, ...], here: str) -> str | None:
    """Where Python finds the user's code, seen from the working folder `here`."""
    from gradscope.isolation.user_code import file_of

    return file_of(word, folders)


def _with_imports(path: str, folders: tuple[str, ...]) -> Iterator[str]:
    """A file and, of Python, what it imports out of the folders that are searched, and what that imports, ..."""
    seen, waiting = dict.fromkeys([path]), [path]
    while waiting:
        one = waiting.pop()
        yield one
        for found in _imported(one, _stamp(one), folders) if one.endswith(".py") else ():
            if found not in seen:
                seen[found] = None
                waiting.append(found)


@lru_cache(maxsize=1024)
def _imported(path: str, stamp: tuple[int, int] | None, folders: tuple[str, ...]) -> tuple[str, ...]:
    """Files that the statements of a file of Python import, those of packages on the way included."""
    try:
        tree = ast.parse(Path(path).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return ()
    from gradscope.isolation.user_code import found_file, searched

    first, last = searched(Path(path), folders)
    found: dict[str, None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names, roots = [one.name for one in node.names], [*first, *last]
        elif isinstance(node, ast.ImportFrom):
            start = node.module or ""
            # `from a import b` means a module b of the package a as often as something in a.
            names = [start, *(f"{start}.{one.name}".lstrip(".") for one in node.names)]
            roots = [str(Path(path).parent.joinpath(*[".."] * (node.level - 1)))] if node.level else [*first, *last]
        else:
            continue
        for name in names:
            parts = name.split(".") if name else []
            for depth in range(1, len(parts) + 1):
                if (file := found_file(".".join(parts[:depth]), roots)) is not None:
                    found[file] = None
    return tuple(found)


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


@lru_cache(maxsize=1024)
def _digest(path: str, stamp: tuple[int, int] | None) -> str:
    """Hash of a file's content; '' for what is no file."""
    if stamp is None or not os.path.isfile(path):
        return ""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise UsageError(f"cannot read '{safe_text(path)}': {safe_text(error.strerror)}") from None


def _origin(base: RunSpec, axes: tuple[Axis, ...]) -> dict[str, str]:
    """Where a value comes from, for errors."""
    moved = {axis.name: f"--over {axis.name}" for axis in axes}
    return {item.name: moved.get(item.name, "of the sweep") for item in fields(base)}

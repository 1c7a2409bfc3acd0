"""Commands about a project and an installation: `gradscope init`, `config`, `doctor` and `schema`."""

from __future__ import annotations

import importlib
import json
import os
import platform
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradscope import __version__
from gradscope.atomic import write_file
from gradscope.cli.output import emit, is_coloured, is_unicode
from gradscope.errors import UsageError
from gradscope.text import counted, safe_text

if TYPE_CHECKING:
    from gradscope.config.targets import Project


KEYS: dict[str, tuple[str, ...]] = {"pyproject.toml": ("tool", "gradscope"), "gradscope.toml": ()}
"""Where settings lie in each file."""
BOM = "\ufeff"
"""Notepad begins a file with it."""


def init(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be written, and write nothing.")] = False,
) -> int:
    """Find recurrent modules in this folder and write targets of check."""
    from gradscope.gate.starter import recurrent_modules, starter

    folder = Path.cwd()
    path = folder / "pyproject.toml" if (folder / "pyproject.toml").is_file() else folder / "gradscope.toml"
    # Both files are read, so both may hold targets.
    before = {name: _before(folder / name, key) for name, key in KEYS.items()}[path.name]
    key = KEYS[path.name]
    found = recurrent_modules(folder)
    tables = starter(found, key)
    if dry_run:
        emit(tables)
        return 0
    write_file(path, _extended(path, before, tables))
    what = counted(len(found), "recurrent module") if found else "no recurrent module: an example"
    if sys.stderr is not None:
        print(f"found {what}; written to {path.name}; next: gradscope check", file=sys.stderr)
    return 0


def _extended(path: Path, before: str, tables: str) -> bytes:
    """What was there, every byte of it, and the tables behind it with the same line ends.

    Raises:
        UsageError: together they are no TOML, as where `gradscope = {...}` cannot be added to.
    """
    ends = "\r\n" if "\r\n" in before else "\n"
    gap = "" if not before.strip() else ends if before.endswith("\n") else 2 * ends
    text = before + gap + tables.replace("\n", ends)
    try:
        tomllib.loads(text.removeprefix(BOM))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(
            f"tables cannot be added to {path.name} as it is ({safe_text(error)}); write its [tool.gradscope] as a "
            "table of its own, or add what gradscope init --dry-run shows by hand"
        ) from None
    return text.encode()


def _before(path: Path, key: tuple[str, ...]) -> str:
    """What the file holds so far, line ends as they are; targets that somebody has written are left alone."""
    if not path.exists():
        return ""
    try:
        text = path.read_bytes().decode()
        content = tomllib.loads(text.removeprefix(BOM))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"cannot read {path.name}: {safe_text(error)}; correct it first") from None
    for part in key:
        content = content.get(part, {}) if isinstance(content, dict) else {}
    if isinstance(content, dict) and "targets" in content:
        raise UsageError(f"{path.name} has targets already; edit them, or see more with gradscope init --dry-run")
    return text


def config() -> int:
    """Print every setting with its value and where it came from.

    As lines for gradscope.toml; then those of each target.
    """
    from gradscope.config import build_spec
    from gradscope.config.sources import GATE
    from gradscope.config.targets import Project

    resolved = build_spec({}, cwd=Path.cwd(), environ=os.environ)
    project = Project(Path.cwd(), os.environ, {}, {})
    lines = [_line(name, value, resolved.origin[name]) for name, value in asdict(resolved.spec).items()]
    for name in GATE:
        entry = project.entry(name) if name != "targets" else None
        if entry is not None:
            lines.append(_line(name, *entry))
    emit("\n".join([*lines, *_targets(project), ""]))
    return 0


def _targets(project: Project) -> Iterator[str]:
    """Each target as a table: its model, limits, and every setting that is not the default."""
    from gradscope.config.sources import LIMITS

    for one in project.asked([]) if project.written else ():
        yield f"\n[targets.{_toml(one.target.name)}]"
        yield _line("model", one.target.spec.models[0], one.origin["models"])
        if one.target.over:
            yield f"over = {_toml(one.target.over)}"
        values = {**asdict(one.target.spec), **asdict(one.target.limits)}
        for name, origin in one.origin.items():
            told = origin != "default" or name in (*LIMITS, "fail_on", "seeds")
            if told and name != "models" and values[name] not in (None, {}):
                yield _line(name, values[name], origin)


def _line(name: str, value: object, origin: str) -> str:
    """A line for gradscope.toml; what has no value, or nothing in it, cannot be written and is told."""
    if value is None or value == ():
        return f"# {name} is {'automatic' if value is None else 'empty'}  # {origin}"
    return f"{name} = {_toml(value)}  # {origin}"


def _toml(value: object) -> str:
    """A value as TOML: characters outside ASCII as they are, since TOML knows no pairs of surrogates."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(key)} = {_toml(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


PACKAGES = ("torch", "numpy", "typer", "rich", "pydantic", "safetensors")

READERS = {"h5py": ("Keras files", "keras"), "onnx": ("ONNX files", "onnx"), "msgpack": ("Flax .msgpack files", "flax")}
"""Package -> what it reads, and the extra that brings it."""
DRAWERS = {"altair": ("charts", "report"), "vl-convert-python": ("pages, PNG and SVG", "report")}
"""The same for what is drawn."""


OTHERS = {"distributed": ("sweeps on a cluster", "sweep"), "pyarrow": ("Parquet files of sweeps", "parquet")}
"""Package -> what it is for, and the extra that brings it."""


def doctor() -> int:
    """Show versions and devices, and warn of what could go wrong."""
    lines = [f"{name:<12} {value}" for name, value in _facts()]
    emit("\n".join([*lines, *(f"warning: {text}" for text in _warnings()), ""]))
    return 0


def _facts() -> Iterator[tuple[str, str]]:
    yield "gradscope", __version__
    yield "python", platform.python_version()
    for name in PACKAGES:
        yield name, _version(name) or "missing"
    for name, (what, extra) in READERS.items():
        version = _version(name)
        yield name, f"{version} ({what} can be read)" if version else f"not installed: the extra [{extra}] reads {what}"
    for name, (what, extra) in OTHERS.items():
        version = _version(name)
        yield name, f"{version} ({what})" if version else f"not installed: the extra [{extra}] is for {what}"
    for name, (what, extra) in DRAWERS.items():
        version = _version(name)
        short = name.removesuffix("-python")
        yield short, f"{version} (draws {what})" if version else f"not installed: the extra [{extra}] draws {what}"
    yield "devices", _devices()
    encoding = getattr(sys.stdout, "encoding", None) or "none"
    yield "output", f"{safe_text(encoding)} ({'all characters' if is_unicode() else 'ASCII only'})"
    yield "colour", "yes" if is_coloured("auto", os.environ) else "no"


def _version(name: str) -> str | None:
    from importlib import metadata

    try:
        return safe_text(metadata.version(name))
    except metadata.PackageNotFoundError:
        return None


def _devices() -> str:
    try:
        torch = importlib.import_module("torch")
    except Exception as error:  # a broken installation of torch fails in many ways, and this is where to learn which
        return f"unknown: torch cannot be imported ({safe_text(error)})"
    names = ["cpu"]
    if torch.cuda.is_available():
        names += [
            f"cuda:{number} ({torch.cuda.get_device_name(number)})" for number in range(torch.cuda.device_count())
        ]
    if torch.backends.mps.is_available():
        names.append("mps")
    return safe_text(", ".join(names))


def _warnings() -> Iterator[str]:
    other = _version("gradscope")
    if other is not None:
        yield (
            f"another package named 'gradscope' ({other}) is installed; it has nothing to do with this one, which is "
            "'gradscope-bptt', and overwrites its files: pip uninstall gradscope gradscope-bptt, then install again"
        )
    for name in PACKAGES:
        if _version(name) is None:
            yield f"{name} is missing; install gradscope-bptt again with its dependencies"


def schema() -> int:
    """Print the JSON Schema of the report format."""
    from gradscope.saved import json_schema

    emit(json.dumps(json_schema(), indent=2) + "\n", text=False)
    return 0

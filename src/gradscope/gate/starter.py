"""The commented tables that `gradscope init` writes, and the recurrent modules it finds by reading source files."""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gradscope.text import safe_text

LAYERS = ("RNN", "GRU", "LSTM", "RNNCell", "GRUCell", "LSTMCell", "RNNBase")
"""Classes of torch.nn that carry a state."""
SIZES = ("input_size", "hidden_size")
"""What each of them asks for."""
ELSEWHERE = ("node_modules", "site-packages", "build", "dist", "venv", "env", "tests", "test")
"""Folders that hold no models of the project's own; neither do those whose name starts with a dot."""
LARGEST = 1_000_000
"""Bytes; a longer source file is data."""


@dataclass(frozen=True)
class Found:
    """A class that holds or is a recurrence."""

    file: str
    """From the folder that was searched, with forward slashes."""
    name: str
    line: int
    needs: tuple[str, ...]
    """Arguments without a default: such a class cannot be built as it is."""


def recurrent_modules(folder: Path) -> list[Found]:
    """Classes derived from a Module that mention a recurrent layer of torch.nn, or from such a layer."""
    return [found for path in _sources(folder) for found in _in_file(path, folder)]


def _sources(folder: Path) -> Iterator[Path]:
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and name not in ELSEWHERE and not (Path(here) / name / "pyvenv.cfg").exists()
        )
        yield from (Path(here) / name for name in sorted(files) if name.endswith(".py"))


def _in_file(path: Path, folder: Path) -> Iterator[Found]:
    try:
        if path.stat().st_size > LARGEST:
            return
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return  # not for us to judge: other tools tell about broken files
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    for node in classes.values():
        if _is_recurrent(node):
            yield Found(path.relative_to(folder).as_posix(), node.name, node.lineno, _needed(node, classes))


def _is_recurrent(node: ast.ClassDef) -> bool:
    bases = {_last(base) for base in node.bases}
    if bases & set(LAYERS):
        return True
    is_module = any(base.endswith("Module") for base in bases)
    return is_module and any(isinstance(part, ast.Call) and _last(part.func) in LAYERS for part in ast.walk(node))


def _last(node: ast.expr) -> str:
    """`LSTM` of `torch.nn.LSTM`."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _needed(node: ast.ClassDef, classes: Mapping[str, ast.ClassDef]) -> tuple[str, ...]:
    """Arguments of its constructor that have no default, where it has none of its own those of its base.

    What a base asks for that is neither in the same file nor of torch is not known, which counts as one.
    """
    makers = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
    if not makers:
        for base in map(_last, node.bases):
            if base in LAYERS:
                return ("mode", *SIZES) if base == "RNNBase" else SIZES
            if base in classes and base != node.name:
                return _needed(classes[base], {name: one for name, one in classes.items() if name != node.name})
            if base != "Module":
                return (f"what {base} asks for",) if base else ()
        return ()
    given = makers[-1].args
    plain = [*given.posonlyargs, *given.args][1:]
    without = plain[: len(plain) - len(given.defaults)] if len(given.defaults) < len(plain) else []
    named = [arg for arg, value in zip(given.kwonlyargs, given.kw_defaults, strict=True) if value is None]
    return tuple(arg.arg for arg in (*without, *named))


EXAMPLE = ("example", "lstm:forget_bias=5")
SETTINGS = (
    ("needs-lag", "50", "how many steps back the task must reach"),
    ("length", "200", "steps of the sequence"),
    ("seeds", "5", "weights are drawn so often; fewer are faster, and noisier"),
    ("input", '"batch.npy"', "a real batch (batch, T, features): without it wrong axes may pass"),
    ("min-reach", "40", "lags that keep 1 % of the newest signal"),
    ("rate", "[-0.05, 0.01]", "nats per step back"),
    ("precision-horizon", "{float32 = 50}", "the lag a gradient must survive to in a number type"),
)


def starter(found: Sequence[Found], key: tuple[str, ...]) -> str:
    """Tables `[tool.gradscope.targets.NAME]`, one for each module; an example where there are none.

    Modules that cannot be built without arguments are commented out, with what they ask for.
    """
    top = ".".join(key)
    lines = [
        "# What `gradscope check` measures; `gradscope explain GS101` and so on say what it finds.",
        f"# For all targets, in {'[' + top + ']' if top else 'the head of this file'}: "
        'baseline = "gradscope-baseline.json", max-drop = "10%", timeout = 600.',
    ]
    names: set[str] = set()
    for module in found:
        name = _table_name(module.name, names)
        lines += ["", *_table((*key, "targets", name), f"{module.file}:{module.name}", module.needs)]
    if not found:
        lines += ["", *_table((*key, "targets", EXAMPLE[0]), EXAMPLE[1], ())]
    return "\n".join(lines) + "\n"


def _table(key: tuple[str, ...], model: str, needs: Sequence[str]) -> list[str]:
    mark = "# " if needs else ""
    lines = []
    if needs:
        asks = safe_text(", ".join(needs), 100)
        values = ", ".join(f"{name} = 8" for name in needs if name.isidentifier()) or "name = 8"
        lines = [
            f"# It asks for {asks}: give args = {{{safe_text(values, 100)}}}, or name a function that makes one, "
            "file.py:make."
        ]
    lines += [f"{mark}[{'.'.join(key)}]", f"{mark}model = {json.dumps(model, ensure_ascii=False)}"]
    pieces = [f"{name} = {value}" for name, value, _ in SETTINGS]
    width = max(map(len, pieces))
    return [*lines, *(f"# {piece:<{width}}  # {why}" for piece, (_, _, why) in zip(pieces, SETTINGS, strict=True))]


def _table_name(word: str, taken: set[str]) -> str:
    """`my-encoder` of `MyEncoder`, with a number where it is taken."""
    base = re.sub(r"[^A-Za-z0-9_-]", "", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", word).lower()) or "model"
    name, number = base, 2
    while name in taken:
        name, number = f"{base}-{number}", number + 1
    taken.add(name)
    return name

"""Where in the user's code a model is defined, for whoever has to change it."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

from gradscope.isolation.user_files import loaded_module

CUTS = ("detach", "detach_", "data", "no_grad", "inference_mode")
"""Attributes by which code takes values out of the graph."""


def definition(word: str) -> tuple[Path, int | None] | None:
    """File and line of what `module:attr` or `file.py:attr` names, after it was loaded; the file of a path alone.

    None for families and for what has no source. Nothing is imported here, and nothing of the user's runs.
    """
    place, colon, attribute = word.rpartition(":")
    if not colon:
        return (Path(word), None) if Path(word).is_file() else None
    if place.endswith(".py"):
        return (Path(place), _line(Path(place), attribute)) if Path(place).is_file() else None
    known = loaded_module(place)
    if known is None:
        return None
    module, project = known
    with project.active():
        found = _source(_attribute(module, attribute))
    if found is not None:
        return found
    file = getattr(module, "__file__", None)
    return (Path(file), _line(Path(file), attribute)) if file and file.endswith(".py") else None


def cut_in(path: Path, line: int | None) -> int | None:
    """The only line of a model's code that takes a value out of the graph; None where there is none, or several.

    Looked through is what is defined at `line`, else the whole file: for `detach()`, `.data` and `torch.no_grad()`.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
    defined = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
        and line in range(min([node.lineno, *(mark.lineno for mark in node.decorator_list)]), node.lineno + 1)
    ]
    for scope in (*defined[:1], tree):
        lines = {node.lineno for node in ast.walk(scope) if isinstance(node, ast.Attribute) and _is_cut(node)}
        if lines:
            return lines.pop() if len(lines) == 1 else None
    return None


def _is_cut(node: ast.Attribute) -> bool:
    return node.attr in CUTS and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))


def _attribute(module: Any, dotted: str) -> Any:
    found = module
    for part in dotted.split("."):
        found = getattr(found, part, None)
    return found


def _source(thing: Any) -> tuple[Path, int] | None:
    """Of a class or a function, wherever it was imported from."""
    if not inspect.isclass(thing) and not inspect.isroutine(thing):
        return None
    try:
        thing = inspect.unwrap(thing) if callable(thing) else thing
        file = inspect.getsourcefile(thing)
        return (Path(file), inspect.getsourcelines(thing)[1]) if file else None
    except (OSError, TypeError, ValueError):
        return None


def _line(path: Path, dotted: str) -> int | None:
    """The line that binds a dotted name in a source file: a class, a function, an assignment or an import."""
    try:
        body: list[ast.stmt] = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return None
    line = None
    for part in dotted.split("."):
        node = next((node for node in reversed(body) if part in _bound(node)), None)
        if node is None:
            return line
        line = node.lineno
        body = node.body if isinstance(node, ast.ClassDef) else []
    return line


def _bound(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return set()

"""On which line of a TOML file a setting stands; tomllib does not say."""

from __future__ import annotations

import re

_PART = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_KEY = rf"{_PART}(?:\s*\.\s*{_PART})*"
_HEADER = re.compile(rf"\s*\[{{1,2}}\s*({_KEY})\s*\]")
_ENTRY = re.compile(rf"\s*({_KEY})\s*=")


def line_of(text: str, path: tuple[str, ...]) -> int:
    """The line that sets `path`, `("tool", "gradscope", "seed")`; else the nearest thing that leads to it; else 1.

    A setting inside an inline table is on that table's line; a table that only its parts mention, on the first of
    them.
    """
    here: tuple[str, ...] = ()
    inside, around = 0, 1
    for number, line in enumerate(text.splitlines(), 1):
        found, is_header = _path(line, here)
        if is_header:
            here = found
        if found == path:
            return number
        if found[: len(path)] == path and not inside:
            inside = number
        if found and not is_header and path[: len(found)] == found:
            around = number
    return inside or around


def _path(line: str, here: tuple[str, ...]) -> tuple[tuple[str, ...], bool]:
    header, entry = _HEADER.match(line), _ENTRY.match(line)
    if header:
        return _parts(header[1]), True
    return ((*here, *_parts(entry[1])) if entry else ()), False


def _parts(key: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in re.findall(_PART, key))

"""Turn what a flag, a variable or a file says into the type RunSpec declares."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from numbers import Integral, Real
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from gradscope.errors import UsageError
from gradscope.records import RunSpec
from gradscope.text import safe_text

TYPES: Mapping[str, Any] = get_type_hints(RunSpec)
"""Setting -> its type: the fields of RunSpec are the settings."""

SEPARATED: Mapping[str, str | None] = {"models": None, "pair": None, "import_path": os.pathsep}
"""What parts a list that is written as one text, None for blanks; other lists are parted at commas."""
_CODES = ("select", "ignore")


def coerce(name: str, value: object, where: str) -> Any:
    """`value` as the type of the setting `name`.

    Raises:
        UsageError: it cannot be that type; `where` says who asked for it.
    """
    kind = TYPES[name]
    if isinstance(kind, UnionType):
        kind = next(part for part in get_args(kind) if part is not type(None))
    try:
        if get_origin(kind) is tuple:
            return _words(name, value)
        if get_origin(kind) is dict:
            return _numbers(value) if get_args(kind)[1] is float else _texts(value)
        if kind is bool:
            return _truth(value)
        return _whole(value) if kind is int else _text(value)
    except ValueError as error:
        raise UsageError(f"{name} is '{safe_text(value)}' ({where}); expected {error}") from None


def _whole(value: object) -> int:
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", value.strip()):
        return int(value)
    # numpy's whole numbers are Integral too.
    if isinstance(value, bool) or not isinstance(value, Integral) or abs(int(value)) >= 10**18:
        raise ValueError("a whole number of at most 18 digits")
    return int(value)


def _text(value: object) -> str:
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(value, str) or value == "":
        raise ValueError("a text that is not empty")
    return value


def _truth(value: object) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if isinstance(value, str) and value.strip().lower() in words:
        return words[value.strip().lower()]
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _words(name: str, value: object) -> tuple[str, ...]:
    """A list; one text of models or pairs splits at blanks, of folders as in PATH, of others at commas."""
    if value in ([], ()) and name != "models":
        return ()  # a stronger source may empty a weaker one's list
    if isinstance(value, str):
        value = value.split(SEPARATED[name]) if name in SEPARATED else [value]
    if isinstance(value, os.PathLike):
        value = [value]
    items = list(value) if isinstance(value, list | tuple) else []
    # Columns go by number too, and folders come as paths.
    items = [
        str(item) if isinstance(item, os.PathLike) or (name == "columns" and type(item) is int) else item
        for item in items
    ]
    words = [item for item in items if isinstance(item, str) and item.strip()]
    if not words or len(words) < len(items):
        raise ValueError("one or more names")
    if name in SEPARATED:
        return tuple(words)
    parts = tuple(part.strip() for word in words for part in word.split(",") if part.strip())
    return tuple(part.upper() for part in parts) if name in _CODES else parts


def _numbers(value: object) -> dict[str, float]:
    """A table of numbers, or `name=number` texts."""
    if isinstance(value, str):
        value = value.split(",")
    if isinstance(value, list | tuple):
        value = dict(str(part).partition("=")[::2] for part in value)
    if not isinstance(value, dict):
        raise ValueError("name=number")
    return {str(key).strip().replace("-", "_"): _number(number) for key, number in value.items()}


def _texts(value: object) -> dict[str, str]:
    """A table, or `name=value` texts; values stay as they are written."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list | tuple):
        parts = [str(part).partition("=") for part in value]
        if not all(equals for _, equals, _ in parts):
            raise ValueError("name=value")
        value = {name: text for name, _, text in parts}
    if not isinstance(value, dict) or not all(str(name).strip().isidentifier() for name in value):
        raise ValueError("name=value, with the name of an argument")
    return {str(name).strip(): str(text).strip() for name, text in value.items()}


def _number(value: object) -> float:
    try:
        number = float(value) if isinstance(value, str | Real) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError("name=number, with a finite number")
    return number

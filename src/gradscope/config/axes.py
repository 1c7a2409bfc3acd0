"""Axes of a sweep: `forget_bias=0:6:1`, `hidden=32,64,128`, `gain=log:0.1:10:5`; and the settings at a point."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from gradscope.config.types import TYPES, coerce
from gradscope.config.words import model_file, parse_model
from gradscope.errors import UsageError
from gradscope.records import RunSpec
from gradscope.registry import unknown
from gradscope.swept import Axis, AxisKind
from gradscope.text import safe_text

AXIS = re.compile(r"([A-Za-z_][A-Za-z0-9_.-]*)=(.*)", re.DOTALL)
"""A word that is an axis; a model's has a colon, a dot or a slash before any equals sign."""
FIXED = ("models", "show", "fail_on", "pair")
"""Settings that decide no single run of a sweep."""
TABLES = ("args", "thresholds")
OF_FILES = ("nonlinearity",)
"""Settings that tell about a file what a family has an option of that name for."""
MOST = 1_000_000
"""Points; a sweep beyond that is a slip of the pen."""

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_LINEAR = re.compile(rf"({_NUMBER}):({_NUMBER}):({_NUMBER})")
_LOG = re.compile(rf"log:({_NUMBER}):({_NUMBER}):(\d{{1,7}})")
_NEAR = re.compile(rf"(?:log:)?{_NUMBER}(?::{_NUMBER})+")


def read_axes(words: Sequence[str], given: Sequence[str], default: Sequence[str]) -> tuple[Axis, ...]:
    """The axes that words such as `hidden=32,64` name; several models are the first of them.

    Args:
        words: the axes as written.
        given: the models that were named.
        default: the models where none is named, neither so nor as the axis `model`.

    Raises:
        UsageError: a word that is no axis, an axis named twice or with no values, or a name that nothing has.
    """
    split = [_split(word) for word in words]
    named = next((values(text, word) for name, text, word in split if name == "model"), None)
    if named is not None and given:
        raise UsageError("models are given both as MODEL and as the axis 'model'; keep one of them")
    models = named or given or default
    axes = [Axis("model", tuple(given), "model")] if len(given) > 1 else []
    for name, text, word in split:
        kind = _kind(name, models)
        whole = kind == "setting" and "int" in str(TYPES[name])
        axes.append(Axis(name, values(text, word, whole=whole), kind))
    twice = _twice([axis.name for axis in axes])
    if twice is not None:
        raise UsageError(f"axis '{safe_text(twice)}' is given twice; name each once")
    count = math.prod(len(axis.values) for axis in axes)
    if count > MOST:
        raise UsageError(f"these axes have {count:,} points; a sweep takes at most {MOST:,}; use larger steps")
    return tuple(axes)


def values(text: str, word: str, *, whole: bool = False) -> tuple[str, ...]:
    """The values that `text` lists: single ones, `a:b:step` with both ends, `log:a:b:n` evenly on a log scale.

    Args:
        text: what stands behind the equals sign.
        word: the whole axis, for errors.
        whole: whether values between are rounded to whole numbers.

    Raises:
        UsageError: none at all, one twice, or a range that ends nowhere.
    """
    found = [value for part in text.split(",") for value in _part(part.strip(), word, whole)]
    if whole and "log:" in text:
        found = list(dict.fromkeys(found))
    twice = _twice(found)
    if twice is not None:
        raise UsageError(f"axis '{safe_text(word)}' has the value {safe_text(twice)} twice; name each once")
    return tuple(found)


def spec_at(base: RunSpec, axes: Sequence[Axis], texts: Sequence[str]) -> RunSpec:
    """The settings at a point: `base` with each axis at the value of its text.

    Raises:
        UsageError: a value that its setting cannot have.
    """
    changes: dict[str, Any] = {}
    model, options = base.models[0], []
    for axis, text in zip(axes, texts, strict=True):
        if axis.kind == "model":
            model = text
        elif axis.kind == "option":
            options.append(f"{axis.name}={text}")
        elif axis.kind == "entry":
            table, _, entry = axis.name.partition(".")
            before = changes.get(table, getattr(base, table))
            changes[table] = {**before, **coerce(table, [f"{entry}={text}"], f"--over {axis.name}")}
        else:
            changes[axis.name] = coerce(axis.name, text, f"--over {axis.name}")
    if options:
        model += (":" if ":" not in model else ",") + ",".join(options)
    return replace(base, models=(model,), **changes)


def _split(word: str) -> tuple[str, str, str]:
    """Name, values and the whole of a word that is an axis."""
    match = AXIS.fullmatch(word)
    if match is None:
        raise UsageError(f"--over '{safe_text(word)}' is no axis; write name=1,2,3, name=0:6:1 or name=log:1:100:5")
    return match[1].replace("-", "_"), match[2], word


def _twice(names: Sequence[str]) -> str | None:
    """The first name that occurs again."""
    return next((name for name, count in Counter(names).items() if count > 1), None)


def _kind(name: str, models: Sequence[str]) -> AxisKind:
    """What an axis of that name moves."""
    if name == "model":
        return "model"
    if name in FIXED or name in TABLES:
        more = f"; write {name}.NAME=..." if name in TABLES else ""
        raise UsageError(f"'{name}' cannot be an axis{more}")
    families = bool(models) and all(parse_model(word).is_family for word in models)
    if name in TYPES and not (families and name in OF_FILES):
        _refuse_own(name, models)
        return "setting"
    if name.partition(".")[0] in TABLES and "." in name:
        return "entry"
    if "." in name or not families:
        parsed = [parse_model(word) for word in models]
        coded = [word for word in parsed if not word.is_family and model_file(word.text or word.name) is None]
        hint = f"; an argument of your class is args.{safe_text(name)}" if coded else ""
        raise UsageError(f"{unknown('axis', name, ('model', *(n for n in TYPES if n not in FIXED)))}{hint}")
    _refuse_own(name, models)
    return "option"


def _refuse_own(name: str, models: Sequence[str]) -> None:
    """An option that a model's word settles cannot be moved as well."""
    for word in models:
        if name in parse_model(word).options:
            raise UsageError(f"'{name}' is an axis and also given in '{safe_text(word)}'; keep one of them")


def _part(part: str, word: str, whole: bool) -> list[str]:
    if not part:
        raise UsageError(f"axis '{safe_text(word)}' has an empty value; write name=1,2,3")
    if match := _LINEAR.fullmatch(part):
        return _linear(Decimal(match[1]), Decimal(match[2]), Decimal(match[3]), part)
    if match := _LOG.fullmatch(part):
        return _log(float(match[1]), float(match[2]), int(match[3]), part, whole)
    if _NEAR.fullmatch(part) or part.startswith("log:"):
        raise UsageError(f"'{safe_text(part)}' is no range; write first:last:step, or log:first:last:count")
    return [part]


def _linear(first: Decimal, last: Decimal, step: Decimal, part: str) -> list[str]:
    if step == 0 or (last - first) * step < 0:
        raise UsageError(f"the range {part} never gets from {first} to {last}; give a step that leads there")
    count = int((last - first) / step) + 1
    if count > MOST:
        raise UsageError(f"the range {part} has {count:,} values; use a larger step")
    return [_written(first + place * step) for place in range(count)]


def _log(first: float, last: float, count: int, part: str, whole: bool) -> list[str]:
    if first <= 0 or last <= 0 or count < 2:
        raise UsageError(f"the range {part} needs ends above 0 and at least 2 values; write log:1:100:5")
    ratio = math.log(last / first) / (count - 1)
    between = [first * math.exp(place * ratio) for place in range(1, count - 1)]
    return [str(round(x)) if whole else f"{x:.6g}" for x in (first, *between, last)]


def _written(number: Decimal) -> str:
    return format(number.normalize(), "f") if number else "0"

"""Files of trajectories: `gradscope.flow/1`, one JSON object a line, read as far as they are whole.

The first line is the head; every further one is a point, something skipped, a note, or the overhead. A run that goes on
later writes its head again: what had been measured beyond the step it goes on from belongs to a run that was given up.
"""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, asdict, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from gradscope.errors import UsageError
from gradscope.text import safe_text
from gradscope.trajectory import SCHEMA, Head, Point, Skipped, Trajectory

SUFFIX = ".jsonl"
CUT = "the last line is only half there (still being written, or the run was cut off); it is left out"
CUT_BEFORE = "a line is only half there, where the run was cut off before it was taken up again; it is left out"
KINDS = ("head", "point", "skipped", "note", "overhead")


def line_of(record: Head | Point | Skipped | str | float) -> str:
    """One line with its newline: a head, a point, something skipped, a note (text) or the overhead (number)."""
    if isinstance(record, Head):
        content: dict[str, Any] = {"schema": SCHEMA, "head": _brief(record)}
    elif isinstance(record, Point):
        content = {"point": _brief(record)}
    elif isinstance(record, Skipped):
        content = {"skipped": asdict(record)}
    else:
        content = {"note" if isinstance(record, str) else "overhead": record}
    return json.dumps(_spelled(content), allow_nan=False, separators=(",", ":")) + "\n"


def lines_of(trajectory: Trajectory) -> str:
    """The whole file."""
    records: list[Any] = [trajectory.head, *trajectory.points, *trajectory.skipped, *trajectory.notes]
    records += [] if trajectory.overhead is None else [trajectory.overhead]
    return "".join(line_of(record) for record in records)


def is_flow(content: bytes) -> bool:
    """Whether a file's content begins as a trajectory does."""
    first = content.lstrip(b"\xef\xbb\xbf \r\n")[:200]
    return (b'"schema"' in first and SCHEMA.encode() in first and b'"head"' in first) or _is_object(first)


def _is_object(content: bytes) -> bool:
    """Whether it begins as the one JSON object does that `-o FILE.json` writes of a trajectory."""
    return content.replace(b" ", b"").replace(b"\n", b"").startswith(b'{"head":{"origin":')


def _of_object(content: bytes, name: str) -> Trajectory:
    from pydantic import TypeAdapter, ValidationError

    try:
        data = json.loads(content.decode("utf-8-sig"), parse_constant=_no_constant)
        given = {item.name: data[item.name] for item in fields(Trajectory) if item.name in data}
        return replace(TypeAdapter(Trajectory).validate_python(given), verdicts=())
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        problem = safe_text(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
    except (ValueError, RecursionError) as error:
        problem = safe_text(error, 120)
    raise UsageError(f"{name} is damaged: {problem}; write it again with --format json") from None


def read_flow(path: str) -> Trajectory:
    """The trajectory in a file, unjudged.

    Raises:
        UsageError: it cannot be read, or is something else; the message names the line.
    """
    name = f"'{safe_text(path)}'"
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = safe_text(getattr(error, "strerror", None) or "not a usable path").lower()
        raise UsageError(f"cannot read {name}: {reason}; name a file of gradscope track or Monitor") from None
    return parse_flow(content, name)


def parse_flow(content: bytes, name: str) -> Trajectory:
    """The trajectory in the content of a file called `name`; a half-written last line is left out, and said.

    Raises:
        UsageError: it is something else, or a line that is not the last is damaged.
    """
    if not is_flow(content):
        raise UsageError(f"{name} is no trajectory ('{SCHEMA}'); write one with gradscope track or Monitor")
    if _is_object(content.lstrip(b"\xef\xbb\xbf \r\n")[:200]):
        return _of_object(content, name)
    raw = [(place, line) for place, line in enumerate(content.split(b"\n"), 1) if line.strip()]
    found: dict[str, list[Any]] = {kind: [] for kind in KINDS}
    notes: dict[str, None] = {}
    goes_on, step = False, None
    for (place, line), (_, following) in zip(raw, [*raw[1:], (0, b"")], strict=True):
        try:
            kind, record = _parsed(line)
        except ValueError as error:
            # A file that is being written ends anywhere; a run that goes on after such an end begins with a head.
            if not following and not content.endswith(b"\n"):
                notes[CUT] = None
                continue
            if _is_head(following):
                notes[CUT_BEFORE] = None
                continue
            problem = safe_text(error, 120)
            raise UsageError(f"{name} is damaged at line {place}: {problem}; take that line out") from None
        if kind == "head":
            goes_on, step = bool(found["head"]), record.resumed
        elif kind == "point" and goes_on and step is None:
            step = record.step - 1
        if goes_on and step is not None:
            # What was measured beyond the step that the run goes on from belongs to a run that was given up.
            found["point"] = [point for point in found["point"] if point.step <= step]
            goes_on = False
        found[kind].append(record)
    if not found["head"]:
        raise UsageError(f"{name} holds half of its first line and nothing else; the run was cut off before step 0")
    return _trajectory(found, tuple(notes))


def _is_head(line: bytes) -> bool:
    try:
        return _parsed(line)[0] == "head"
    except ValueError:
        return False


def _trajectory(found: dict[str, list[Any]], cuts: tuple[str, ...]) -> Trajectory:
    # The same step measured twice, by the run that was taken up again: the later measurement holds.
    points = {(point.step, point.kind, point.layer, point.source): point for point in found["point"]}
    ordered = sorted(points.values(), key=lambda point: point.step)
    notes = [*dict.fromkeys(found["note"]), *cuts]
    if len(found["head"]) > 1:
        notes.append(f"the run was taken up again {len(found['head']) - 1} x")
    return Trajectory(
        head=found["head"][-1],
        points=tuple(ordered),
        skipped=tuple(dict.fromkeys(found["skipped"])),
        notes=tuple(notes),
        overhead=found["overhead"][-1] if found["overhead"] else None,
    )


def _parsed(line: bytes) -> tuple[str, Any]:
    """The kind and the record of one line.

    Raises:
        ValueError: it is no such line; says why.
    """
    try:
        data = json.loads(line.decode("utf-8-sig"), parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    kinds = [kind for kind in KINDS if isinstance(data, dict) and kind in data]
    if len(kinds) != 1:
        raise ValueError(f"it holds none of {', '.join(KINDS)}")
    kind = kinds[0]
    if kind == "head" and data.get("schema") != SCHEMA:
        raise ValueError(f"its schema is not '{SCHEMA}'")
    from pydantic import ValidationError

    try:
        return kind, _adapter(kind).validate_python(data[kind])
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join([kind, *map(str, first["loc"])])
        raise ValueError(f"{place}: {first['msg']}") from None


@cache
def _adapter(kind: str) -> Any:
    # pydantic takes longer to import than a screen takes to draw, so it waits until a file is read.
    from pydantic import TypeAdapter

    return TypeAdapter({"head": Head, "point": Point, "skipped": Skipped, "note": str, "overhead": float}[kind])


def _no_constant(word: str) -> Any:
    raise ValueError(f"bare {word} is not JSON")


def _brief(record: Any) -> dict[str, Any]:
    """Fields that differ from their defaults: a run has thousands of lines."""
    return {name: value for name, value in asdict(record).items() if value != _default(type(record), name)}


@cache
def _defaults(kind: type) -> dict[str, Any]:
    return {
        item.name: item.default_factory() if item.default_factory is not MISSING else item.default
        for item in fields(kind)
    }


def _default(kind: type, name: str) -> Any:
    return _defaults(kind)[name]


def _spelled(value: Any) -> Any:
    """Non-finite floats by name, others to six digits: a run has thousands of lines."""
    if isinstance(value, dict):
        return {key: _spelled(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_spelled(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    return value

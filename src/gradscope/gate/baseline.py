"""The baseline file: what every target measured when somebody said that this is how it should be.

The file is JSON with sorted keys and rounded numbers, so that one commit gives the same bytes on one machine, and
numbers that agree within `TOLERANCE` elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from gradscope.atomic import alone, write_file
from gradscope.errors import UsageError
from gradscope.records import Limits, ModelResult, Number, Status, Verdict
from gradscope.rules.gs9_gate import LIMIT, UNMEASURED
from gradscope.text import safe_text

SCHEMA = "gradscope.baseline/1"
DIGITS = 6
TOLERANCE = 1e-5
"""Numbers that differ by this part of themselves count as equal: other processors round otherwise."""
VERSIONS = ("gradscope", "python", "torch", "platform")
_UPDATE = "with `gradscope check --update-baseline` (in pytest --gradscope-update-baseline)"
_WRITE = f"write it once {_UPDATE}"
_AGAIN = f"write it again {_UPDATE}"
_MEND = f"mend it, or delete it and write it anew {_UPDATE}"
APART = ("max_drop", "fail_on")
"""What says how findings count, and is told of where it changed."""


@dataclass(frozen=True)
class Entry:
    """What one target measured, and in which set-up."""

    setup: dict[str, Any]
    config: str
    """Hash of the set-up."""
    versions: dict[str, str]
    status: Status
    reach: int | None = None
    rate: Number = None
    rate_ci: tuple[float, float] | None = None
    coverage: Number = None
    findings: tuple[str, ...] = ()
    """Codes that were found, and are accepted from then on."""
    spread: dict[str, float] | None = None
    """Standard error of reach and coverage; None for a single sequence and seed."""
    gates: dict[str, float] = field(default_factory=dict)
    """Mean of every gate over steps, by name."""
    limits: dict[str, Any] | None = None
    """What it was held to, by name (see `limits_held`); None in files of versions that did not write it down."""

    def __post_init__(self) -> None:
        """Refuse limits that nothing could be held to: people edit the file.

        Raises:
            ValueError: such a limit.
        """
        for name, limit in (self.limits or {}).items():
            ends = limit if isinstance(limit, list) and len(limit) == 2 else [limit]
            if name not in APART and not all(end is None or type(end) in (int, float) for end in ends):
                raise ValueError(f"limits.{name} is {limit!r}; expected a number, or [smallest, largest]")


@dataclass(frozen=True)
class Baseline:
    """The entries by target."""

    targets: dict[str, Entry] = field(default_factory=dict)
    tolerance: float = TOLERANCE
    schema: str = SCHEMA

    def content(self) -> bytes:
        """The file."""
        return (json.dumps(_plain(asdict(self)), indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def read_baseline(path: str) -> Baseline:
    """The baseline in a file.

    Raises:
        UsageError: it cannot be read, or is something else.
    """
    name = f"baseline '{safe_text(path)}'"
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise UsageError(f"there is no {name}; {_WRITE}") from None
    except OSError as error:
        raise UsageError(f"cannot read {name}: {safe_text(error.strerror)}; name a file you can read") from None
    return parse_baseline(content, name)


def parse_baseline(content: bytes, name: str) -> Baseline:
    """The baseline in the content of a file called `name`.

    Raises:
        UsageError: it is something else.
    """
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name} is not JSON ({safe_text(error, 80)}); {_MEND}") from None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise UsageError(f"{name} is not of the schema '{SCHEMA}'; {_MEND}")
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(Baseline).validate_python(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        problem = safe_text(f"{place}: {first['msg'].removeprefix('Value error, ')}")
    raise UsageError(f"{name} is malformed: {problem}; {_MEND}")


def limits_held(limits: Limits, fail_on: str) -> dict[str, Any]:
    """Every limit that decides what passes, by the name that its verdict has: `precision_horizon.float32`."""
    held = {"min_reach": limits.min_reach, "rate": limits.rate and list(limits.rate)}
    held |= {f"precision_horizon.{kind}": lag for kind, lag in limits.precision_horizon.items()}
    set_ones = {name: value for name, value in held.items() if value is not None}
    return {**set_ones, "max_drop": limits.max_drop, "fail_on": fail_on}


def entry_of(
    setup: dict[str, Any], result: ModelResult, environment: Mapping[str, str], limits: dict[str, Any] | None = None
) -> Entry:
    """What is to be written down of a target that finished, and of the limits that it was held to."""
    summary = result.summary
    ends = summary.rate_ci
    return Entry(
        setup=setup,
        config=config_hash(setup),
        versions={name: environment[name] for name in VERSIONS if name in environment},
        status=result.status,
        reach=summary.reach,
        rate=_rounded(summary.rate),
        rate_ci=None if ends is None else (_rounded(ends[0]) or 0.0, _rounded(ends[1]) or 0.0),
        coverage=_rounded(summary.coverage),
        findings=tuple(sorted({found_by(verdict) for verdict in result.verdicts if is_finding(verdict)})),
        spread=None
        if summary.spread is None
        else {name: _rounded(value) or 0.0 for name, value in summary.spread.items()},
        gates={name: _rounded(value) or 0.0 for name, value in gates_of(result).items()},
        limits=limits,
    )


def gates_of(result: ModelResult) -> dict[str, float]:
    """Mean over all steps of every gate that was measured, by its name: `forget`."""
    found = {}
    for name, values in result.series.values.items():
        kind, _, gate = name.partition(".")
        numbers = [value for value in values if value is not None and math.isfinite(value)]
        if kind == "gate" and gate.endswith(".mean") and numbers:
            found[gate.removesuffix(".mean")] = math.fsum(numbers) / len(numbers)
    return found


def config_hash(setup: Mapping[str, Any]) -> str:
    """`sha256:...` of a set-up."""
    text = json.dumps(setup, sort_keys=True, allow_nan=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()[:16]


def is_finding(verdict: Verdict) -> bool:
    """Whether a baseline may accept this: a target that did not finish has nothing that could be accepted."""
    return verdict.status in ("fail", "warn") and verdict.code != UNMEASURED.code


def found_by(verdict: Verdict) -> str:
    """How a finding is named in the file: its code; limits, which share one, also by the limit."""
    return f"{verdict.code} {verdict.title.rpartition(' ')[2]}" if verdict.code == LIMIT.code else verdict.code


def refuse_other_setup(baseline: Baseline, file: str, name: str, setup: Mapping[str, Any]) -> None:
    """Numbers of different set-ups are not compared.

    Raises:
        UsageError: the entry `name` was measured otherwise; the message says in what.
    """
    entry = baseline.targets.get(name)
    if entry is None or entry.config == config_hash(setup):
        return
    keys = sorted(key for key in {*setup, *entry.setup} if setup.get(key) != entry.setup.get(key))
    said = [f"{key} {_shown(entry.setup.get(key))} there, {_shown(setup.get(key))} here" for key in keys[:3]]
    more = f", and {len(keys) - 3} more" if len(keys) > 3 else ""
    what = "; ".join(said) or "its own hash does not fit its set-up"
    raise UsageError(
        f"target '{safe_text(name)}' is set up otherwise in baseline '{safe_text(file)}': {what}{more}; "
        f"use the same settings, or {_AGAIN}"
    )


def updated(old: Baseline, entries: Mapping[str, Entry | None]) -> Baseline:
    """`old` with new entries over its own; a target that was not measured this time (None) keeps its old one."""
    new = {name: entry for name, entry in entries.items() if entry is not None}
    return replace(old, targets={**old.targets, **new}, tolerance=TOLERANCE)


def write_entries(path: Path, entries: Mapping[str, Entry | None]) -> None:
    """Write new entries over those that the file holds by now: another run may have written its own meanwhile.

    Raises:
        UsageError: the file cannot be written, or is something else.
    """
    with alone(path):
        old = read_baseline(str(path)) if path.exists() else Baseline()
        write_file(path, updated(old, entries).content())


def _shown(value: Any) -> str:
    return "default" if value is None else safe_text(value, 60)


def _rounded(value: Number) -> Number:
    return value if value is None or not math.isfinite(value) else float(f"{value:.{DIGITS}g}")


def _plain(value: Any) -> Any:
    """Non-finite numbers by name, tuples as lists."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value

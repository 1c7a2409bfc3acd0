"""The limits of `gradscope check`, from what a flag or a file says."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

from gradscope.config.check import SYNTHETIC_LENGTH
from gradscope.config.words import parse_model
from gradscope.errors import UsageError
from gradscope.records import Limits, RunSpec
from gradscope.registry import unknown
from gradscope.text import safe_text

NUMBER_TYPES = ("float32", "bfloat16", "float16")
"""Types whose precision horizon is measured."""


def coerce_limit(name: str, value: object, where: str) -> Any:
    """`value` as the limit `name` of `Limits`.

    Raises:
        UsageError: it cannot be that; `where` says who asked for it.
    """
    read, expected = _READERS[name]
    found = read(value)
    if found is None:
        raise UsageError(f"{name} is '{safe_text(value)}' ({where}); expected {expected}")
    if name == "precision_horizon":
        for kind in found:
            if kind not in NUMBER_TYPES:
                raise UsageError(f"{unknown('number type', kind, NUMBER_TYPES)} ({where})")
    return found


def check_limits(limits: Limits, spec: RunSpec, origin: Mapping[str, str]) -> None:
    """Refuse a limit that no run of `spec` could keep.

    Raises:
        UsageError: a reach longer than the sequence.
    """
    own = spec.input is None and spec.text is None and parse_model(spec.models[0]).is_family
    length = spec.length or (SYNTHETIC_LENGTH if own else None)
    if length is None:
        return
    asked = {"min_reach": limits.min_reach, "precision_horizon": max(limits.precision_horizon.values(), default=None)}
    for name, lag in asked.items():
        if lag is not None and lag >= length:
            remedy = "lower it or raise length"
            raise UsageError(
                f"{name} is {lag} ({origin[name]}); over {length} steps it is at most {length - 1}; {remedy}"
            )


def _lag(value: object) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value.strip()):
        value = int(value)
    # numpy's whole numbers are Integral too, and its floats Real.
    lag = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else 0
    return lag if 1 <= lag < 10**9 else None


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        return None
    return float(value)


def _range(value: object) -> tuple[float, float] | None:
    value = value.tolist() if hasattr(value, "tolist") else value
    ends = [_finite(end) for end in value] if isinstance(value, list | tuple) else []
    if len(ends) != 2 or ends[0] is None or ends[1] is None or ends[0] > ends[1]:
        return None
    return ends[0], ends[1]


def _horizons(value: object) -> dict[str, int] | None:
    if not isinstance(value, dict) or not value:
        return None
    lags = {str(kind): _lag(lag) for kind, lag in value.items()}
    return {kind: lag for kind, lag in lags.items() if lag is not None} if None not in lags.values() else None


def _part(value: object) -> float | None:
    """`0.1` or `10%`, from 0 to below 1."""
    if isinstance(value, str) and (match := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%?)\s*", value)):
        value = float(match[1]) / (100 if match[2] else 1)
    found = _finite(value)
    return found if found is not None and 0 <= found < 1 else None


def _whole_part(value: object) -> float | None:
    """`0.9` or `90%`, from 0 to 1."""
    if value in (1, "1", "1.0", "100%") and not isinstance(value, bool):
        return 1.0
    return _part(value)


def _seconds(value: object) -> float | None:
    found = _finite(value)
    return found if found is not None and 0 < found < 10**7 else None


_READERS: Mapping[str, tuple[Callable[[object], Any], str]] = {
    "min_reach": (_lag, "a whole number of lags from 1"),
    "rate": (_range, "[smallest, largest] in nats per step, such as [-0.05, 0.01]"),
    "precision_horizon": (_horizons, "a table of lags by number type, such as {float32 = 50}"),
    "max_drop": (_part, "a part such as 10% or 0.1, from 0 to below 1"),
    "min_healthy": (_whole_part, "a part such as 0.9 or 90%, from 0 to 1"),
    "timeout": (_seconds, "a number of seconds above 0"),
}

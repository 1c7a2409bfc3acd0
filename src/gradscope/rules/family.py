"""Which family a result belongs to, and the command that tries the same model with one option changed."""

from __future__ import annotations

import re

from gradscope.records import ModelResult
from gradscope.registry import FAMILIES

_NAME = re.compile(r"[a-z]+(:[a-z_]+=[\w.+-]+(,[a-z_]+=[\w.+-]+)*)?")


def family(result: ModelResult) -> str:
    """The family word of a result; its kind (`module`, `chain`, ...) where it is none that gradscope builds.

    Weights loaded from a file are recognised by the torch class they were checked against (`torch.nn.LSTM`).
    """
    word = result.name.partition(":")[0]
    if word in FAMILIES:
        return word
    check = result.loaded.equality_check
    against = check.against.rpartition(".")[2].lower() if check else ""
    return against if against in FAMILIES else result.kind


def options(name: str) -> dict[str, str]:
    """The options in a model's name: `lstm:hidden=32` gives {"hidden": "32"}; a name of another form gives {}."""
    if not _NAME.fullmatch(name) or ":" not in name:
        return {}
    return dict(part.split("=", 1) for part in name.partition(":")[2].split(","))


def variant(result: ModelResult, **changed: str) -> str:
    """The result's own model with options changed, `lstm:hidden=32,forget_bias=5.7`; the bare family if loaded."""
    word = family(result)
    kept = options(result.name) if result.name.startswith(word) else {}
    settled = ",".join(f"{key}={value}" for key, value in (kept | changed).items())
    return f"{word}:{settled}" if settled else word

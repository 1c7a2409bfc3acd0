"""The set-up of a target: everything that decides its numbers and its status, nothing that only shows them."""

from __future__ import annotations

import hashlib
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from gradscope.config.places import names_path, relative
from gradscope.records import RunSpec

SHOWING = ("models", "fail_on", "show", "pair")
ALWAYS = ("seed", "dtype", "device")
FILES = ("input", "target", "state", "vocab")
"""Settings that name data, which decides the numbers just as the setting does."""


def setup_of(spec: RunSpec, folder: Path) -> dict[str, Any]:
    """Settings that differ from their defaults, by name; paths as seen from `folder`, data files with their hash."""
    defaults = RunSpec()
    found: dict[str, Any] = {"model": _from(folder, "models", spec.models[0])}
    for item in fields(spec):
        value = getattr(spec, item.name)
        if item.name in SHOWING or (item.name not in ALWAYS and value == getattr(defaults, item.name)):
            continue
        found[item.name] = value
        if isinstance(value, str):
            found[item.name] = _from(folder, item.name, value)
        elif isinstance(value, tuple):
            found[item.name] = [_from(folder, item.name, part) for part in value]
        if item.name in FILES and (digest := _digest(value)):
            found[item.name] += f" {digest}"
    return found


def _from(folder: Path, setting: str, value: str) -> str:
    """The path in `file.py:attr` or `data.csv`, from a folder; anything else stays what it is."""
    path, colon, attribute = value.partition(":")
    if not names_path(setting, value) or not os.path.exists(path):
        return value
    return relative(path, folder) + colon + attribute


def _digest(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError:
        return ""

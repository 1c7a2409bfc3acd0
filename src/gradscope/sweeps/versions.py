"""Which versions a machine would compute with, and how they differ from those of the client."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from gradscope.text import safe_text

COMPARED = ("gradscope", "torch")


def asking() -> Callable[[], dict[str, str]]:
    """A function that says which versions there are, whole in itself: a worker may lack gradscope."""

    def versions() -> dict[str, str]:
        from importlib import metadata

        found = {}
        for name, package in (("gradscope", "gradscope-bptt"), ("torch", "torch")):
            try:
                found[name] = metadata.version(package)
            except metadata.PackageNotFoundError:
                found[name] = "none"
        return found

    return versions


@cache
def own_versions() -> dict[str, str]:
    """Of this process."""
    return asking()()


def difference(theirs: dict[str, str], ours: dict[str, str]) -> str:
    """`torch 2.12.0 (here 2.13.0)`; '' where there is none."""
    other = [name for name in COMPARED if theirs.get(name) != ours[name]]
    return ", ".join(f"{name} {safe_text(theirs.get(name))} (here {safe_text(ours[name])})" for name in other)

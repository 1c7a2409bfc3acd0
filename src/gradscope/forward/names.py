"""What the recurrences of a pass are called: after the part of the module in whose code their state is kept."""

from __future__ import annotations

from gradscope.forward.opened import Opened


def walk_names(one: Opened) -> tuple[str, ...]:
    """A name for every walk, distinct: the module path its state's variables share, else `loop`."""
    found: list[str] = []
    for walk in one.walks:
        parts = [name.split("#")[0].rpartition(".")[0] for name in one.states(walk)[1]] if walk.steps else []
        paths = [part for part in parts if part]
        name = _shared(paths) if paths and len(paths) == len(parts) else ""
        name = (name or "loop") + (".reverse" if walk.backwards else "")
        taken = sum(other == name or other.startswith(f"{name}#") for other in found)
        found.append(f"{name}#{taken + 1}" if taken else name)
    return tuple(found)


def _shared(paths: list[str]) -> str:
    """The dotted path that all begin with."""
    split = [path.split(".") for path in paths]
    shared = []
    for words in zip(*split, strict=False):
        if len(set(words)) > 1:
            break
        shared.append(words[0])
    return ".".join(shared)

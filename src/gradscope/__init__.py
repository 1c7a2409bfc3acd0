"""gradscope: how far back in time a sequence model can learn, why not further, and what to do about it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradscope.api import analyze as analyze
    from gradscope.api import compare as compare
    from gradscope.gate.run import check as check
    from gradscope.monitor.monitor import Monitor as Monitor
    from gradscope.records import Report as Report

__version__ = "0.1.0"

_PUBLIC = {
    "analyze": "gradscope.api",
    "compare": "gradscope.api",
    "check": "gradscope.gate.run",
    "Report": "gradscope.records",
    "Monitor": "gradscope.monitor.monitor",
}


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used: `import gradscope` alone stays instant."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'gradscope' has no attribute {name!r}; it has {', '.join(_PUBLIC)}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])

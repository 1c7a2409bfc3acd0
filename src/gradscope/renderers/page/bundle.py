"""The scripts that draw charts in a browser, as one text; made once and kept in the user's cache folder."""

from __future__ import annotations

import os
from functools import cache
from importlib.metadata import version
from pathlib import Path

from gradscope.atomic import write_file
from gradscope.errors import UsageError


@cache
def bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed, fit to stand in a script element."""
    kept = _folder() / f"vega-{version('vl-convert-python')}.js"
    try:
        found = kept.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        found = ""
    if not found.endswith(_MARK):
        found = _made() + _MARK
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_file(kept, found.encode())
        except (OSError, UsageError):
            pass  # a folder that cannot be written costs time at the next page, and nothing else
    return found


_MARK = "\n/* whole */\n"


def _made() -> str:
    import vl_convert

    # Nothing in a script element may look like its end, or like a comment of HTML.
    return (
        str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
        .replace("</script", "<\\/script")
        .replace("<!--", "<\\!--")
    )


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(base) if base else Path.home() / ".cache") / "gradscope"

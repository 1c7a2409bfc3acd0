"""The report inside its page, to be taken out again as JSON."""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import dataclass

from gradscope.records import Report
from gradscope.renderers import report_data
from gradscope.renderers.view import View

ALL_DIGITS = 400_000
"""Characters of JSON up to which every digit is kept."""
PLAIN = 100_000
"""Characters up to which it stands in the page as it is."""
DIGITS = 6


@dataclass(frozen=True)
class Embedded:
    """Text for a script element, how it is encoded (empty: as it is), and whether digits were left out."""

    text: str
    encoding: str
    shortened: bool


def embedded(report: Report) -> Embedded:
    """The report's JSON; of long sequences, numbers to six digits, packed."""
    return embed(report_data.json_text(report, View()))


def embed(text: str) -> Embedded:
    """Any JSON in the same way."""
    shortened = len(text) > ALL_DIGITS
    if shortened:
        rounded = json.loads(text, parse_float=lambda number: float(f"{float(number):.{DIGITS}g}"))
        text = json.dumps(rounded, separators=(",", ":"), allow_nan=False)
    if len(text) <= PLAIN:
        return Embedded(in_script(text), "", shortened)
    packed = gzip.compress(text.encode(), 9, mtime=0)
    return Embedded(base64.b64encode(packed).decode(), "gzip", shortened)


def in_script(text: str) -> str:
    """JSON that no parser of HTML can take for the end of its element, or for anything but text."""
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text

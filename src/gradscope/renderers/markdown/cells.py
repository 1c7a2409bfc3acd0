"""Foreign text and tables in Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gradscope.renderers.text import numbers
from gradscope.renderers.text.page import Page
from gradscope.renderers.view import View
from gradscope.text import safe_text

ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "@&#8203;"}
CODE = re.compile(r"`(gradscope [^`\n]+)`")
ESCAPED = frozenset("|`*_[]#~\\$")


def escaped(text: object, view: View) -> str:
    """Foreign text that Markdown, HTML and mention filters leave alone."""
    safe = Page(view).fold(safe_text(text, limit=2000))
    # A zero-width space breaks `@name` (nobody is called for) and `http://` (no link is made).
    plain = "".join(f"\\{char}" if char in ESCAPED else ENTITIES.get(char, char) for char in safe)
    plain = plain.replace("://", ":&#8203;//")
    return f"\\{plain}" if plain.startswith(("-", "+", "=")) and not _is_number(safe) else plain


def prose(text: str, view: View) -> str:
    """A sentence of gradscope's: `commands` in it stay code, the rest is escaped as whatever it quotes must be."""
    pieces = CODE.split(text)
    return "".join(
        f"`{Page(view).fold(safe_text(piece, limit=2000))}`" if place % 2 else piece and escaped(piece, view)
        for place, piece in enumerate(pieces)
    )


def _is_number(text: str) -> bool:
    return text == numbers.MISSING or text[1:2].isdigit()


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], view: View) -> str:
    """A table; every cell is escaped."""
    lines = [_cells(heads, view), "|" + "---|" * len(heads), *(_cells(row, view) for row in rows)]
    return "\n".join(lines)


def _cells(cells: Sequence[str], view: View) -> str:
    return "| " + " | ".join(escaped(cell, view) for cell in cells) + " |"

"""The one door through which foreign text reaches any output."""

from __future__ import annotations

import unicodedata

_UNSAFE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def safe_text(text: object, limit: int = 200) -> str:
    r"""Make foreign text harmless: control, format and surrogate characters become visible escapes.

    ESC, OSC and C1 sequences, bidirectional overrides, zero-width characters, line breaks and lone surrogates turn
    into `\x1b`-style escapes; the result is one line of at most `limit` characters.
    """
    shown = "".join(_visible(char) for char in str(text)[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def _visible(char: str) -> str:
    if unicodedata.category(char) not in _UNSAFE:
        return char
    code = ord(char)
    if char in "\t\n\r":
        return {"\t": "\\t", "\n": "\\n", "\r": "\\r"}[char]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

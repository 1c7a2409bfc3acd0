"""The doors to any output: foreign text made harmless, and our own in character sets that lack its signs."""

from __future__ import annotations

import codecs
import re
import unicodedata

FOLDS = {
    "‖": "||",
    "✗": "x",
    "✓": "ok",
    "◂": "<",
    "─": "-",
    "·": "|",
    "▲": "!",
    "…": "...",
    "→": "->",
    "σ": "s",
    "²": "^2",
    "±": "+-",
    "≈": "~",
    "×": "x",
    "–": "-",
    "—": "-",
    "≥": ">=",
    "≤": "<=",
    "’": "'",
    "½": "1/2",
    "░": ".",
    "▒": "-",
    "▓": "+",
    "█": "#",
    "χ": "chi",
    "φ": "phi",
    "λ": "lambda",
    "ε": "eps",
    "ν": "nu",
    "Σ": "sum ",
    "∂": "d",
    "√": "sqrt",
    "ℓ": "l",
    "′": "'",
    "ᵀ": "^T",
    "−": "-",
    "≠": "!=",
    "⟨": "<",
    "⟩": ">",
}
"""What stands for the signs that gradscope itself writes, where they cannot be shown."""
_LOW = {chr(0x2080 + digit): str(digit) for digit in range(10)}
_FOLD: dict[int, str] = {ord(sign): plain for sign, plain in (FOLDS | _LOW).items()}
_HIGH: dict[str, str] = {chr(0x2070 + digit): str(digit) for digit in (0, *range(4, 10))} | {
    "¹": "1",
    "²": "2",
    "³": "3",
    "⁻": "-",
}
_POWERS = re.compile(f"[{''.join(_HIGH)}]+")
_UNSAFE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def safe_text(text: object, limit: int = 200) -> str:
    r"""Make foreign text harmless: control, format and surrogate characters become visible escapes.

    ESC, OSC and C1 sequences, bidirectional overrides, zero-width characters, line breaks and lone surrogates turn
    into `\x1b`-style escapes; the result is one line of at most `limit` characters.
    """
    shown = "".join(_visible(char) for char in str(text)[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def counted(count: int, what: str) -> str:
    """`1 lag`, `2,000 lags`: a number of things that are called by their singular."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def in_ascii(text: str) -> str:
    """Text in ASCII: known signs become what is typed for them, all others escapes."""
    plain = _POWERS.sub(lambda run: "^" + "".join(map(_HIGH.__getitem__, run[0])), text)
    return plain.translate(_FOLD).encode("ascii", "backslashreplace").decode()


def encoded(text: str, encoding: str) -> bytes:
    """Text in an encoding, whose missing characters are written in ASCII."""
    return text.encode(encoding, _MISSING)


_MISSING = "gradscope.in_ascii"
codecs.register_error(_MISSING, lambda error: (in_ascii(error.object[error.start : error.end]), error.end))  # type: ignore[attr-defined]


def _visible(char: str) -> str:
    if unicodedata.category(char) not in _UNSAFE:
        return char
    code = ord(char)
    if char in "\t\n\r":
        return {"\t": "\\t", "\n": "\\n", "\r": "\\r"}[char]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

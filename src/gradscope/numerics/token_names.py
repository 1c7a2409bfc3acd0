"""Reading `cat:was#2`: which steps a pair of tokens stands for."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from gradscope.errors import UsageError
from gradscope.registry import unknown
from gradscope.text import safe_text

NAMES_SHOWN = 8


def read_pair(word: str, tokens: Sequence[str] | None, steps: int) -> tuple[int, int]:
    """Steps (source, target), counted from 1, of `source:target`.

    A side is a token, as written in the text (its first occurrence), `token#n` (the n-th one), or a step number where
    no token is written like it. Tokens may hold colons themselves: the first colon that leaves two known sides
    divides.

    Raises:
        UsageError: not two sides, an unknown token or occurrence, or a source after its target.
    """
    shown = safe_text(word)
    cuts = [i for i, char in enumerate(word) if char == ":" and 0 < i < len(word) - 1]
    if not cuts:
        raise UsageError(f"cannot read the pair '{shown}'; write source:target, such as cat:was#2 or 5:20")
    first_error: UsageError | None = None
    for cut in cuts:
        try:
            source, target = (_step(side, tokens, steps) for side in (word[:cut], word[cut + 1 :]))
        except UsageError as error:
            first_error = first_error or error
            continue
        if source > target:
            raise UsageError(
                f"in the pair '{shown}' step {source} comes after step {target}, and no output depends on a later"
                f" input; swap the two, or pick another occurrence with #n"
            )
        return source, target
    assert first_error is not None
    raise first_error


def _step(side: str, tokens: Sequence[str] | None, steps: int) -> int:
    """The step that one side of a pair stands for."""
    places = _places(side, tokens)
    if places:
        return places[0]
    name, mark, number = side.rpartition("#")
    places = _places(name, tokens)
    if mark and places:
        if not _is_number(number) or not 1 <= int(number) <= len(places):
            raise UsageError(_occurrences(side, name, places))
        return places[int(number) - 1]
    if _is_number(side):
        if not 1 <= int(side) <= steps:
            raise UsageError(f"step {int(side)} is outside 1..{steps}; pick a step of this sequence")
        return int(side)
    if tokens is None:
        raise UsageError(f"'{safe_text(side)}' is no step number, and the sequence has no tokens; write a pair as 5:20")
    wanted = name if mark and name and _is_number(number) else side
    raise UsageError(unknown("token", wanted, _near(wanted, tokens)))


def _places(name: str, tokens: Sequence[str] | None) -> list[int]:
    return [step for step, token in enumerate(tokens or (), 1) if token == name]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 9


def _occurrences(side: str, name: str, places: Sequence[int]) -> str:
    listed = ", ".join(str(step) for step in places[:NAMES_SHOWN]) + (", ..." if len(places) > NAMES_SHOWN else "")
    times = "once" if len(places) == 1 else f"{len(places)} times"
    where = "step" if len(places) == 1 else "steps"
    return (
        f"there is no '{safe_text(side)}': '{safe_text(name)}' occurs {times} ({where} {listed});"
        f" use #1{'' if len(places) == 1 else f' to #{len(places)}'}"
    )


def _near(wanted: str, tokens: Sequence[str]) -> list[str]:
    """A few tokens to name in an error: those most like the wanted one, else the first of the text."""
    distinct = list(dict.fromkeys(tokens))
    close = difflib.get_close_matches(wanted, distinct, n=NAMES_SHOWN)
    return [safe_text(token, 40) for token in (close or distinct[:NAMES_SHOWN])]

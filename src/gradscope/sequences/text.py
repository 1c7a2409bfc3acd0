"""Text as a sequence: tokens, and a seeded vector for each."""

from __future__ import annotations

import functools
import re
import sys
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from gradscope.config.check import FEATURES
from gradscope.errors import UsageError
from gradscope.files.paths import decode_utf8, existing_file, read_bytes
from gradscope.records import RunSpec
from gradscope.registry import unknown
from gradscope.sequences.batch import Batch
from gradscope.sequences.embedding import trained_vectors
from gradscope.sequences.streams import normal
from gradscope.sequences.stretches import stretches
from gradscope.text import safe_text

_BOM = b"\xef\xbb\xbf"


def words(raw: bytes, what: str) -> list[str]:
    """Words and punctuation apart: `The cat, which` -> The / cat / , / which. An apostrophe inside a word stays."""
    text = _decode(raw, what)
    marks = "" if text.isascii() else _marks()
    return re.findall(rf"\w[\w{marks}]*(?:['’]\w[\w{marks}]*)*|[^\w\s]", text)


def characters(raw: bytes, what: str) -> list[str]:
    """Every code point, spaces and line ends included (CR LF counts as one line end)."""
    return list(_decode(raw, what))


def byte_values(raw: bytes, what: str) -> list[str]:
    r"""Every byte of the UTF-8 form (of the file as it is, less its byte-order mark); `\xe2` beyond ASCII."""
    return [chr(byte) if byte < 0x80 else f"\\x{byte:02x}" for byte in raw.removeprefix(_BOM)]


TOKENIZERS: Mapping[str, Callable[[bytes, str], list[str]]] = {
    "word": words,
    "char": characters,
    "byte": byte_values,
}


def text_batch(spec: RunSpec, raw: bytes, source: str, features: int | None, seed: int) -> Batch:
    """Tokens of `raw`, each standing for a vector: drawn from N(0, 1) by seed and token alone, or a trained one.

    One sequence of `spec.length` tokens (default: all), or `spec.batch` consecutive stretches.

    Raises:
        UsageError: unknown kind of token, text that is not UTF-8, too few tokens, or a model without input.
    """
    if spec.tokens not in TOKENIZERS:
        raise UsageError(unknown("kind of tokens", spec.tokens, TOKENIZERS))
    if features == 0:
        raise UsageError(
            "text needs a model with input, this one takes 0 features; leave the text out or raise --input-size"
        )
    size = FEATURES if features is None else features
    what = "the text" if source == "text" else f"'{source}'"
    tokens = TOKENIZERS[spec.tokens](raw, what)
    cut = stretches(len(tokens), spec.length, spec.batch, what, f"{spec.tokens} tokens")
    used = tokens[: cut.batch * cut.length]
    index = {token: position for position, token in enumerate(dict.fromkeys(used))}
    ids = torch.tensor([index[token] for token in used]).reshape(cut.batch, cut.length)
    if spec.embedding is None:
        table = torch.stack([normal(seed, "embedding", token, size=(size,)) for token in index])
        origin = f"seeded embedding of {size} features"
    else:
        table, origin = trained_vectors(spec, tuple(index))
    if table.shape[1] != size and features is not None:
        raise UsageError(f"the embedding has {table.shape[1]} features, the model takes {size}; choose the one it read")
    note = f"{len(used):,} {spec.tokens} tokens, {len(index):,} distinct; {origin}"
    vocabulary = tuple(safe_text(token) for token in index)
    return Batch(
        x=table[ids],
        tokens=None,
        token_ids=ids,
        vocabulary=vocabulary,
        notes=(note, *cut.notes),
        source=source,
        consecutive=cut.consecutive,
    )


def given_text(text: str) -> tuple[bytes, str]:
    """Bytes and source of what stands behind `--text`: the text itself, or the .txt file that it names.

    Raises:
        UsageError: a .txt file that is missing or unreadable, or characters that no UTF-8 text holds.
    """
    one_line = "\n" not in text and len(text) < 4096
    if one_line and text.lower().endswith(".txt") and (_is_file(text) or not re.search(r"\s", text)):
        return read_bytes(existing_file(text, "--text"), "--text"), safe_text(text)
    try:
        # bytes of the command line that were not UTF-8 come back as they were, and are reported with their offset
        return text.encode("utf-8", "surrogateescape"), "text"
    except UnicodeEncodeError as error:
        where = f"character {error.start} is a lone surrogate"
        raise UsageError(f"the text is not Unicode: {where}; remove it or write the text to a UTF-8 file") from error


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except OSError:
        return False


def _decode(raw: bytes, what: str) -> str:
    text = decode_utf8(raw, what, "save it as UTF-8 or use --tokens byte")
    return text.replace("\r\n", "\n")


@functools.cache
def _marks() -> str:
    r"""Combining marks, which `\w` leaves out although they belong to the word (vowel signs, accents)."""
    return "".join(chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code))[0] == "M")

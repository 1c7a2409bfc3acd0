"""Text as a sequence: tokens, and a seeded or trained vector for each."""

from __future__ import annotations

import functools
import json
import re
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradscope.config import model_file
from gradscope.config.check import FEATURES
from gradscope.errors import UsageError
from gradscope.files.paths import decode_utf8, existing_file, read_bytes
from gradscope.files.tensors import floats
from gradscope.files.weights_file import read_weights
from gradscope.files.zip_check import first_twice
from gradscope.records import RunSpec
from gradscope.registry import unknown
from gradscope.sequences.batch import Batch, stretches
from gradscope.sequences.synthetic import normal
from gradscope.text import counted, safe_text

UNKNOWN = ("<unk>", "<UNK>", "[UNK]", "[unk]", "<unknown>", "UNK", "unk")
"""Rows that stand for every token that has none of its own."""


def trained_vectors(spec: RunSpec, tokens: Sequence[str]) -> tuple[Tensor, str]:
    """One vector per token, (tokens, features) in float64, and a note on where they come from.

    Raises:
        UsageError: no such embedding, or tokens without a row.
    """
    file = next((found[0] for word in spec.models if (found := model_file(word))), spec.weights)
    if file is None:
        raise UsageError("--embedding is a key of a file of weights, and no model here is one; leave it out")
    shown = safe_text(file)
    tensors = read_weights(existing_file(file, "model"), "model")
    name = _name(tensors, spec.embedding or "", shown)
    table = floats(tensors[name], name, shown).double()
    rows = _rows(spec, len(table)) if spec.vocab is None else read_vocabulary(spec.vocab, len(table))
    places, rest = rows_of(tokens, rows)
    picked = table[places]
    if not bool(picked.isfinite().all()):
        raise UsageError(f"'{safe_text(name, 60)}' in '{shown}' has NaN or Inf for these tokens; leave --embedding out")
    return picked, f"trained embedding '{safe_text(name, 60)}' of {table.shape[1]} features{rest}"


def _name(tensors: Mapping[str, Tensor], key: str, shown: str) -> str:
    """The matrix that `key` names: all of its name, or its last parts, with or without `.weight`."""
    matrices = [name for name, tensor in tensors.items() if tensor.ndim == 2]
    ends = (key, f"{key}.weight")
    found = [name for name in matrices if name in ends]
    found = found or [name for name in matrices if name.endswith(tuple("." + end for end in ends))]
    if len(found) != 1:
        near = [safe_text(name, 40) for name in matrices]
        raise UsageError(f"'{shown}': {unknown('embedding', key, near)}; a matrix (tokens, features) is needed")
    return found[0]


def rows_of(tokens: Sequence[str], rows: Mapping[str, int]) -> tuple[list[int], str]:
    """The row of every token, that of <unk> for one without its own; and what to add to a note about them.

    Raises:
        UsageError: tokens without a row, and none for <unk>.
    """
    spare = next((rows[word] for word in UNKNOWN if word in rows), None)
    distinct = dict.fromkeys(tokens)
    missing = [token for token in distinct if token not in rows]
    if missing and spare is None:
        listed = ", ".join(f"'{safe_text(token, 20)}'" for token in missing[:5])
        raise UsageError(
            f"the vocabulary has no row for {len(missing)} of {len(distinct)} tokens ({listed}) and no <unk>; "
            f"choose other --tokens or another text"
        )
    rest = f"; {len(missing)} of them have no row and are <unk>" if missing else ""
    return [rows.get(token, spare or 0) for token in tokens], rest


def byte_rows() -> dict[str, int]:
    """Bytes, as they are written among tokens, each in the row of its own number."""
    return {chr(byte) if byte < 0x80 else f"\\x{byte:02x}": byte for byte in range(256)}


def _rows(spec: RunSpec, rows: int) -> dict[str, int]:
    if spec.tokens == "byte" and rows >= 256:
        return byte_rows()
    raise UsageError(f"--embedding has {rows:,} rows and nothing says whose; add --vocab FILE (json, or one per line)")


def read_vocabulary(name: str, rows: int) -> dict[str, int]:
    """Token -> row: a JSON object (either way round), a JSON list, or one token per line.

    Raises:
        UsageError: neither of these, a token twice, or more tokens than rows.
    """
    path, shown = existing_file(name, "--vocab"), safe_text(name)
    text = decode_utf8(read_bytes(path, "--vocab"), f"--vocab '{shown}'", "save it as UTF-8")
    found = _from_json(text, shown) if Path(name).suffix.lower() == ".json" else _from_list(text.split("\n"), shown)
    outside = next((token for token, row in found.items() if not 0 <= row < rows), None)
    if outside is not None:
        token = safe_text(outside, 40)
        raise UsageError(
            f"--vocab '{shown}' puts '{token}' in row {found[outside]:,}, there are {rows:,}; name its own file"
        )
    return found


def _from_list(tokens: Sequence[Any], shown: str) -> dict[str, int]:
    while tokens and tokens[-1] == "":  # the end of the last line
        tokens = tokens[:-1]
    lines = [token.removesuffix("\r") if isinstance(token, str) else token for token in tokens]
    if not lines or not all(isinstance(token, str) for token in lines):
        raise UsageError(f"--vocab '{shown}' holds no tokens; write a JSON object or list, or one token per line")
    if (twice := first_twice(lines)) is not None:
        raise UsageError(f"--vocab '{shown}' holds '{safe_text(twice, 40)}' twice; each row has one token")
    return {token: row for row, token in enumerate(lines)}


def _from_json(text: str, shown: str) -> dict[str, int]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--vocab '{shown}' is not JSON ({safe_text(error, 80)}); save it again") from error
    if isinstance(data, list):
        return _from_list(data, shown)
    if isinstance(data, dict) and data and all(isinstance(row, int) for row in data.values()):
        return {str(token): int(row) for token, row in data.items()}
    if isinstance(data, dict) and data and all(row.isdecimal() and len(row) < 10 for row in data):
        turned = {token: int(row) for row, token in data.items() if isinstance(token, str)}
        if len(turned) == len(data):
            return turned
    raise UsageError(f"--vocab '{shown}' is no table of tokens; write a JSON object token -> row, or a list")


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
    cut = stretches(len(tokens), spec.length, spec.batch, what, f"{spec.tokens} token")
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
    note = f"{counted(len(used), f'{spec.tokens} token')}, {len(index):,} distinct; {origin}"
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

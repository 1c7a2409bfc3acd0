"""Vectors of tokens out of a trained embedding: `--embedding KEY` of a file of weights, `--vocab FILE` for its rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from gradscope.config import model_file
from gradscope.errors import UsageError
from gradscope.files.names import first_twice
from gradscope.files.paths import decode_utf8, existing_file, read_bytes
from gradscope.files.tensors import floats
from gradscope.files.weights_file import read_weights
from gradscope.records import RunSpec
from gradscope.registry import unknown
from gradscope.text import safe_text

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

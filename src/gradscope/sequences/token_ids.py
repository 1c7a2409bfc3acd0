"""Sequences of token ids, for models that take ids in place of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradscope.config.check import SYNTHETIC_BATCH, SYNTHETIC_LENGTH
from gradscope.errors import UsageError
from gradscope.files.paths import decode_utf8, existing_file, read_bytes
from gradscope.models.token_models import TokenIds
from gradscope.records import RunSpec
from gradscope.sequences.batch import Batch, stretches
from gradscope.sequences.file_readers import FileData, column_numbers
from gradscope.sequences.number_files import cut_sequences, read_numbers
from gradscope.sequences.synthetic import integers
from gradscope.sequences.text import TOKENIZERS, byte_rows, given_text, read_vocabulary, rows_of
from gradscope.text import safe_text


def id_batch(spec: RunSpec, ids: TokenIds, seed: int, *, whole: bool = False) -> Batch:
    """Ids for `spec`, x (B, T) int64: of a text, then of a file of whole numbers, else drawn uniformly by seed.

    Raises:
        UsageError: ids the model does not know, more steps than it takes, or a text and nothing that gives its ids.
    """
    if spec.length is not None and ids.longest is not None and spec.length > ids.longest:
        raise UsageError(f"--length {spec.length} is more than the {ids.longest} steps that the model takes; lower it")
    if spec.text is not None:
        return _of_text(spec, ids, *given_text(spec.text))
    if spec.input is None:
        return _drawn(spec, ids, seed)
    if Path(spec.input).suffix.lower() == ".txt":
        raw = read_bytes(existing_file(spec.input, "--input"), "--input")
        return _of_text(spec, ids, raw, safe_text(spec.input))
    return _of_file(spec, ids, spec.input, whole)


def given_ids(x: Tensor, spec: RunSpec, ids: TokenIds) -> Batch:
    """Ids at hand, (batch, T).

    Raises:
        UsageError: another shape or type, or ids the model does not know.
    """
    if x.ndim != 2 or x.shape[1] < 2 or x.is_floating_point() or x.is_complex():
        found = f"x is {tuple(x.shape)} of {str(x.dtype).removeprefix('torch.')}"
        raise UsageError(f"{found}; this model takes token ids: whole numbers (batch, T) with at least 2 steps")
    moved = x.detach().to(spec.device, torch.int64)
    _known(moved.cpu().numpy(), ids.size, "x")
    return _batch(moved, None, ids, (), "given")


def _batch(
    x: Tensor,
    pieces: Sequence[str] | None,
    ids: TokenIds,
    notes: tuple[str, ...],
    source: str,
    *,
    consecutive: bool = False,
) -> Batch:
    """Ids and, where there is a text, the piece that each of them stands for, in one row."""
    places = vocabulary = None
    if pieces is not None:
        index = {piece: place for place, piece in enumerate(dict.fromkeys(pieces))}
        places = torch.tensor([index[piece] for piece in pieces]).reshape(x.shape)
        vocabulary = tuple(safe_text(piece) for piece in index)
    logits = ids.size if ids.width == ids.size else None
    return Batch(x, None, places, vocabulary, notes, source, logits, consecutive=consecutive)


def _of_text(spec: RunSpec, ids: TokenIds, raw: bytes, source: str) -> Batch:
    what = "the text" if source == "text" else f"'{source}'"
    found, pieces, origin = _encoded(spec, ids, raw, what)
    cut = stretches(len(found), spec.length, spec.batch, what, "tokens", ids.longest)
    used = cut.batch * cut.length
    _known(np.array(found[:used]), ids.size, what)
    limited = _limited(cut.length, ids) if spec.length is None else ()
    note = f"{used:,} tokens, {len(set(found[:used])):,} distinct, of {ids.size:,} ids; {origin}"
    x = torch.tensor(found[:used]).reshape(cut.batch, cut.length)
    return _batch(x, pieces[:used], ids, (note, *limited, *cut.notes), source, consecutive=cut.consecutive)


def _encoded(spec: RunSpec, ids: TokenIds, raw: bytes, what: str) -> tuple[list[int], list[str], str]:
    """Ids of a text, the piece that each stands for, and who says so."""
    if spec.vocab is None and ids.encode is not None:
        rows, pieces = ids.encode(decode_utf8(raw, what, "save it as UTF-8"))
        return rows, pieces, "the model's own tokenizer"
    tokens = TOKENIZERS[spec.tokens](raw, what)
    if spec.vocab is not None:
        table, origin = read_vocabulary(spec.vocab, ids.size), safe_text(spec.vocab)
    elif spec.tokens == "byte" and ids.size >= 256:
        table, origin = byte_rows(), "bytes are ids"
    else:
        bytes_too = ", or --tokens byte if it reads bytes" if ids.size >= 256 else ""
        raise UsageError(
            f"the model takes {ids.size:,} token ids and nothing says whose; add --vocab FILE (json, or one per line)"
            f"{bytes_too}"
        )
    rows, rest = rows_of(tokens, table)
    return rows, tokens, origin + rest


def _of_file(spec: RunSpec, ids: TokenIds, name: str, whole: bool) -> Batch:
    shown = safe_text(name)
    data = read_numbers(name, spec.columns, "--input")
    values = _ids_by_step(data, shown)
    used, cut = cut_sequences(values[..., None], spec, shown, ids.longest, whole=whole)
    rows = used.reshape(cut.batch, cut.length)
    _known(rows, ids.size, f"'{shown}'")
    x = torch.from_numpy(rows.astype(np.int64))
    limited = _limited(cut.length, ids) if spec.length is None else ()
    return _batch(x, None, ids, (*data.notes, *limited, *cut.notes), shown, consecutive=cut.consecutive)


def _ids_by_step(data: FileData, shown: str) -> NDArray[Any]:
    """(T,) for one sequence or (B, T), of what is stored with or without an axis of one feature."""
    values = data.values
    if data.picks:
        values = values[..., column_numbers(data.picks, values.shape[-1], f"'{shown}'")]
    column = values.ndim in (2, 3) and values.shape[-1] == 1
    if column:
        values = values[..., 0]
    if values.ndim not in (1, 2) or (data.columns and not column):
        found = f"{values.shape[-1]} columns" if data.columns else f"shape {values.shape}"
        remedy = "choose one with --columns" if data.columns else "(steps,) or (batch, steps) is needed"
        raise UsageError(f"'{shown}' has {found}, the model takes one token id per step; {remedy}")
    return values


def _drawn(spec: RunSpec, ids: TokenIds, seed: int) -> Batch:
    if spec.sequence not in ("random", "zeros"):
        raise UsageError(f"--sequence {spec.sequence} makes numbers, the model takes token ids; use random or zeros")
    batch = SYNTHETIC_BATCH if spec.batch is None else spec.batch
    length = spec.length or min(SYNTHETIC_LENGTH, ids.longest or SYNTHETIC_LENGTH)
    if spec.sequence == "zeros":
        x = torch.zeros(batch, length, dtype=torch.int64)
    else:
        x = torch.stack([integers(seed, "ids", row, below=ids.size, size=(length,)) for row in range(batch)])
    what = "id 0 at every step" if spec.sequence == "zeros" else "random token ids"
    limited = _limited(length, ids) if spec.length is None else ()
    return _batch(x, None, ids, (f"{what}, of {ids.size:,}", *limited), spec.sequence)


def _limited(length: int, ids: TokenIds) -> tuple[str, ...]:
    return (f"{length} steps are the most that the model takes",) if length == ids.longest else ()


def _known(rows: NDArray[Any], size: int, what: str) -> None:
    """Refuse what is no id of the model.

    Raises:
        UsageError: names the first one and its place.
    """
    wrong = ~((rows == np.floor(rows)) & (rows >= 0) & (rows < size))
    if not wrong.any():
        return
    place = np.unravel_index(int(wrong.argmax()), wrong.shape)
    step = int(place[-1]) + 1
    where = f"step {step}" + (f" of sequence {int(place[0])}" if rows.ndim == 2 and len(rows) > 1 else "")
    raise UsageError(f"{what} has {rows[place]} at {where}; the model's token ids are whole numbers 0 to {size - 1}")

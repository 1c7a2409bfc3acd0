"""Token ids for modules that take ids: from text, from files of whole numbers, or drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from gradscope.errors import UsageError
from gradscope.files.paths import existing_file, read_bytes
from gradscope.models.direct import Direct
from gradscope.records import RunSpec
from gradscope.sequences.batch import Batch
from gradscope.sequences.embedding import UNKNOWN, read_vocabulary
from gradscope.sequences.files import read_numbers
from gradscope.sequences.stretches import stretches
from gradscope.sequences.text import TOKENIZERS, given_text
from gradscope.text import safe_text

LENGTH, BATCH = 200, 8


def token_batch(model: Direct, spec: RunSpec, seed: int) -> Batch:
    """Ids for `model`, (batch, T) int64, in the place of x.

    Text goes through the model's own tokenizer where it has one, else through `--vocab`, or byte by byte.

    Raises:
        UsageError: text without a vocabulary, ids out of range, or a file of anything but whole numbers.
    """
    if spec.text is not None:
        return _of_text(model, spec, *given_text(spec.text))
    if spec.input is not None and Path(spec.input).suffix.lower() == ".txt":
        return _of_text(model, spec, read_bytes(existing_file(spec.input, "--input"), "--input"), safe_text(spec.input))
    if spec.input is not None:
        return _of_file(model, spec, spec.input)
    length = spec.length or min(LENGTH, model.longest or LENGTH)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(_size(model), (spec.batch or BATCH, length), generator=generator)
    notes: tuple[str, ...] = ("random tokens, not your data",)
    if spec.length is None and length < LENGTH:
        notes += (f"{length} steps: the model takes no more",)
    return given_ids(model, ids, spec, None, notes, "random")


def given_ids(
    model: Direct, ids: Tensor, spec: RunSpec, words: Sequence[str] | None, notes: tuple[str, ...], source: str
) -> Batch:
    """Ids (batch, T) as a batch, each within the model's vocabulary; `words` are those of sequence `spec.item`.

    Raises:
        UsageError: an id out of range, or fewer than two steps.
    """
    if ids.ndim != 2 or ids.shape[1] < 2:
        raise UsageError(f"token ids have shape {tuple(ids.shape)}; expected (batch, T) with at least 2 steps")
    low, high, size = int(ids.min()), int(ids.max()), _size(model)
    if low < 0 or high >= size:
        raise UsageError(f"token id {low if low < 0 else high} is outside 0..{size - 1}, the model's vocabulary")
    if model.longest is not None and ids.shape[1] > model.longest:
        raise UsageError(f"{ids.shape[1]} steps are more than the model takes; use --length {model.longest} or less")
    tokens = None if words is None else tuple(safe_text(word) for word in words)
    ids = ids.to(spec.device)
    return Batch(x=ids, tokens=tokens, token_ids=ids, vocabulary=None, notes=notes, source=source, classes=size)


def _size(model: Direct) -> int:
    assert model.vocabulary is not None
    return model.vocabulary


def _of_text(model: Direct, spec: RunSpec, raw: bytes, source: str) -> Batch:
    what = "the text" if source == "text" else f"'{source}'"
    if model.tokenize is not None:
        found, words = model.tokenize("".join(TOKENIZERS["char"](raw, what)))
        kind, rest = "the model's own tokenizer", ""
    else:
        words = TOKENIZERS[spec.tokens](raw, what)
        rows = _rows(model, spec)
        spare = next((rows[word] for word in UNKNOWN if word in rows), None)
        missing = [word for word in dict.fromkeys(words) if word not in rows]
        if missing and spare is None:
            listed = ", ".join(f"'{safe_text(word, 20)}'" for word in missing[:5])
            raise UsageError(f"the vocabulary has no {listed} and no <unk>; choose other --tokens or another text")
        found = [rows.get(word, spare if spare is not None else 0) for word in words]
        kind, rest = f"{spec.tokens} tokens", f"; {len(missing)} distinct ones are <unk>" if missing else ""
    cut = stretches(len(found), spec.length, spec.batch, what, "tokens")
    ids = torch.tensor(found[: cut.batch * cut.length]).reshape(cut.batch, cut.length)
    start = min(spec.item, cut.batch - 1) * cut.length
    shown = list(words)[start : start + cut.length]
    note = f"{cut.batch * cut.length:,} tokens by {kind}{rest}"
    return given_ids(model, ids, spec, shown, (note, *cut.notes), source)


def _rows(model: Direct, spec: RunSpec) -> dict[str, int]:
    if spec.vocab is not None:
        return read_vocabulary(spec.vocab, _size(model))
    if spec.tokens == "byte" and _size(model) >= 256:
        return {chr(byte) if byte < 0x80 else f"\\x{byte:02x}": byte for byte in range(256)}
    raise UsageError("the module takes token ids and nothing says whose; add --vocab FILE (json, or one per line)")


def _of_file(model: Direct, spec: RunSpec, name: str) -> Batch:
    data, shown = read_numbers(name, spec.columns, "--input"), safe_text(name)
    values = torch.from_numpy(data.values.astype("float64"))
    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim not in (1, 2) or not bool((values == values.round()).all()):
        raise UsageError(f"'{shown}' holds no token ids; the module takes whole numbers, (T,) or (batch, T)")
    ids = values.long() if values.ndim == 2 else values.long()[None]
    ids = ids[: spec.batch, : spec.length]
    return given_ids(model, ids, spec, None, data.notes, shown)

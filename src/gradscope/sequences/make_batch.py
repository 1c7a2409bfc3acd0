"""`make_batch`: the one entry from a request to the sequences a model is run on."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch

from gradscope.errors import UsageError
from gradscope.files.paths import existing_file, read_bytes
from gradscope.models.token_models import TokenIds
from gradscope.records import RunSpec
from gradscope.sequences.batch import Batch, place, to_device
from gradscope.sequences.number_files import file_batch
from gradscope.sequences.synthetic import normal, synthetic
from gradscope.sequences.tasks import kind_of, task_of
from gradscope.sequences.text import given_text, text_batch
from gradscope.sequences.token_ids import id_batch
from gradscope.text import safe_text

TASK_SEQUENCES = 32
"""Where nothing says how many: the share of a gradient is a mean over them."""


def task_batch(spec: RunSpec, seed: int, input_size: int | None, ids: TokenIds | None) -> Batch:
    """Sequences of `spec.task` at the needed lag.

    A model of other features gets them through a seeded linear map, one of token ids the task's symbols as ids.

    Raises:
        UsageError: the task cannot be had, or shows no symbols to a model of token ids.
    """
    task, lag = task_of(spec), spec.needs_lag or 1
    drawn = task.draw(torch.Generator().manual_seed(seed), spec.batch or TASK_SEQUENCES, lag, kind_of(spec, task))
    x = drawn.x
    notes: tuple[str, ...] = (f"task {task.name}: {task.summary}, lags {kind_of(spec, task)}",)
    if ids is not None:
        if not task.symbols:
            raise UsageError(f"task '{task.name}' shows numbers, the model takes token ids; use --task recall")
        x = to_device(x.argmax(-1), spec.device)
        return Batch(x, None, None, None, notes, "task", asked=drawn.target)
    if input_size not in (None, task.features):
        assert input_size is not None
        front = normal(seed, "front", size=(task.features, input_size)) / math.sqrt(task.features)
        x, notes = x.double() @ front, (*notes, f"{task.features} features enter as {input_size}, by a seeded map")
    return Batch(place(x, spec.dtype, spec.device), None, None, None, notes, "task", asked=drawn.target)


def make_batch(
    spec: RunSpec, *, seed: int, input_size: int | None = None, ids: TokenIds | None = None, whole: bool = False
) -> Batch:
    """Sequences for `spec`, in its dtype and on its device. Equal arguments give equal numbers.

    Args:
        spec: the request; text, then file, then synthetic sequence decides.
        seed: of random sequences and of embeddings. The global generator of torch is left alone.
        input_size: features that the model takes; None when the model is built to fit, then `spec.input_size`, else
            16 for synthetic sequences and text, the file's own otherwise. 0: a model without input, x is (B, T, 0).
        ids: of a model that takes token ids in place of features.
        whole: whether all sequences of a file are wanted where no batch is given.

    Raises:
        UsageError: anything wrong with the request or the file, in one line with its remedy.
    """
    _check_request(spec)
    if spec.task is not None:
        return task_batch(spec, seed, input_size, ids)
    features = spec.input_size if input_size is None else input_size
    batch = _read(spec, features, seed, whole) if ids is None else id_batch(spec, ids, seed, whole=whole)
    sequences, steps = batch.x.shape[:2]
    if not 0 <= spec.item < sequences:
        raise UsageError(f"--item {spec.item} is not among the {sequences} sequences; use 0 to {sequences - 1}")
    if spec.needs_lag is not None and not 1 <= spec.needs_lag < steps:
        raise UsageError(_too_short(spec.needs_lag, steps, spec, batch.source))
    tokens, places = None, batch.token_ids
    if places is not None and batch.vocabulary is not None:
        tokens = tuple(batch.vocabulary[index] for index in places[spec.item].tolist())
        places = to_device(places, spec.device)
    x = place(batch.x, spec.dtype, spec.device) if ids is None else to_device(batch.x, spec.device)
    return replace(batch, x=x, tokens=tokens, token_ids=places, notes=(*batch.notes, *_unused(spec)))


def _too_short(lag: int, steps: int, spec: RunSpec, source: str) -> str:
    """Why a sequence of `steps` steps has no such lag, and what to do."""
    if lag < 1:
        return f"--needs-lag {lag} looks back at nothing; use 1 or more"
    synthetic = spec.text is None and spec.input is None
    is_text = spec.text is not None or (spec.input or "").lower().endswith(".txt")
    what = "the sequence" if synthetic else "the text" if source == "text" else f"'{source}'"
    unit = f"{spec.tokens} tokens" if is_text else "steps"
    more = (
        "raise --length"
        if synthetic or spec.length == steps
        else "give a longer text"
        if is_text
        else "give more steps"
    )
    return f"--needs-lag {lag} needs {lag + 1} {unit}, {what} has {steps}; lower it to {steps - 1} or less, or {more}"


def _check_request(spec: RunSpec) -> None:
    if spec.length is not None and spec.length < 2:
        raise UsageError(f"--length {spec.length} leaves nothing to look back on; use 2 or more")
    if spec.batch is not None and spec.batch < 1:
        raise UsageError(f"--batch {spec.batch} holds no sequence; use 1 or more")
    if spec.input_size is not None and spec.input_size < 0:
        raise UsageError(f"--input-size {spec.input_size} is negative; use 0 for a model without input, else 1 or more")
    if spec.text is not None and spec.input is not None:
        raise UsageError("--text and --input are both given, one sequence is needed; leave one out")


def _read(spec: RunSpec, features: int | None, seed: int, whole: bool) -> Batch:
    if spec.text is not None:
        raw, source = given_text(spec.text)
        return text_batch(spec, raw, source, features, seed)
    if spec.input is None:
        return synthetic(spec.sequence, spec.length, spec.batch, features, seed)
    if Path(spec.input).suffix.lower() == ".txt":
        raw = read_bytes(existing_file(spec.input, "--input"), "--input")
        return text_batch(spec, raw, safe_text(spec.input), features, seed)
    return file_batch(spec, spec.input, features, whole=whole)


def _unused(spec: RunSpec) -> tuple[str, ...]:
    numbers = spec.text is None and spec.input is not None and Path(spec.input).suffix.lower() != ".txt"
    given = (("--columns", bool(spec.columns)), ("--scale", spec.scale not in (None, "none")))
    return tuple(f"{flag} is for files of numbers, not used here" for flag, present in given if present and not numbers)

"""Which model a word of the command line means: a family, a file, a folder, or an object in somebody's code."""

from __future__ import annotations

from pathlib import Path

import torch

from gradscope.config import model_file, parse_model
from gradscope.errors import UsageError
from gradscope.loading.source import Source
from gradscope.models.family import Model, family_model
from gradscope.records import BUILT, Loaded, RunSpec
from gradscope.registry import FAMILIES
from gradscope.text import safe_text


def source_of(word: str, spec: RunSpec) -> Source:
    """The model that a word of the command line stands for.

    Raises:
        UsageError: no such family or option, or a file or object that cannot be used.
    """
    parsed = parse_model(word)
    if word.lower().endswith(".jsonl"):
        shown = safe_text(word)
        raise UsageError(
            f"'{shown}' is a training run, not a model; gradscope show {shown}, or gradscope check {shown}"
        )
    if (file := model_file(word)) is not None and parsed.name not in FAMILIES:
        from gradscope.loading.model_file import source_from_file

        return source_from_file(*file, spec)
    if parsed.name not in FAMILIES and Path(word).is_dir():
        from gradscope.loading.huggingface import source_from_directory

        return source_from_directory(word, spec)
    if parsed.name not in FAMILIES:
        from gradscope.loading.objects import source_from_reference

        return source_from_reference(word, spec)
    defaults = {"hidden": spec.hidden, "layers": spec.layers}
    settled = family_model(parsed.name, parsed.options, parsed.text, defaults)
    given = settled.options.input
    wanted = given if given is not None else spec.input_size
    if given is not None and spec.input_size not in (None, given):
        raise UsageError(f"{word} asks for input={given} and --input-size for {spec.input_size}; give one of them")

    def make(input_size: int, seed: int) -> Model:
        dtype = getattr(torch, spec.dtype)
        return settled.build(input_size=input_size, seed=seed, dtype=dtype, device=spec.device)

    return Source(parsed.text, make, wanted, Loaded(BUILT))

"""Where a model comes from: what it is called, what it demands, and which one a word of the command line means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from gradscope.chain import ArrayChain
from gradscope.config import model_file, parse_model
from gradscope.errors import UsageError
from gradscope.isolation.user_code import Project
from gradscope.models.family import Model, family_model
from gradscope.models.token_models import TokenIds
from gradscope.records import BUILT, Loaded, RunSpec
from gradscope.registry import FAMILIES
from gradscope.text import safe_text

Make = Callable[[int, int], Model | ArrayChain]


@dataclass(frozen=True)
class Source:
    """A model not yet built."""

    name: str
    make: Make
    """(input_size, seed) -> model."""
    input_size: int | None
    """Features per step it demands; None when it is built to fit the sequence."""
    loaded: Loaded
    ids: TokenIds | None = None
    """What is known of the token ids it takes in place of features."""
    is_chain: bool = False
    """Whether it is bare Jacobians, which bring their own length and sequences."""
    is_backwards: bool = False
    """Whether it reads a sequence from its end, so that step 1 is the last one of the data."""
    code: Project = field(default_factory=lambda: Project([]))
    """What its code imports from; active while it is run."""

    @property
    def fresh(self) -> bool:
        """Whether the weights are drawn here, for every seed anew."""
        return self.loaded.source == BUILT


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

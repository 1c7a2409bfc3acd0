"""Readers under the lens: which words the verb still hears, before and after the training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from gradscope.lesson.readers import HIDDEN, KINDS, Reader
from gradscope.lesson.sentences import BLANK, measured, shown
from gradscope.loading.code.objects import source_from_object
from gradscope.pipeline import diagnose, diagnose_sources
from gradscope.profile import Profile
from gradscope.records import ModelResult, Report, RunSpec

COSTED = 100
"""Steps at which operations are counted; training steps are timed at this, two and four times as many."""


def heard(readers: Mapping[str, Reader], length: int, *, trained: bool, detail: bool = False) -> Report:
    """The influence of every word on the verb of the shown sentence, reader by reader.

    Args:
        readers: by name.
        length: steps of the sentence.
        trained: whether they were trained, for the labels.
        detail: also maps over pairs of steps.
    """
    sentence = measured(length)
    spec = RunSpec(models=tuple(readers), dtype="float64", layout="batch-first")

    def loss(output: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(output[:, -1], sentence.plural)

    sources = [
        replace(source, loaded=replace(source.loaded, trained=trained))
        for source in (source_from_object(reader.double(), name, spec) for name, reader in readers.items())
    ]
    report = diagnose_sources(sources, spec, x=sentence.ids, loss=loss, detail=detail)
    words = tuple("was" if word == BLANK else word for word in shown(length))
    return replace(report, models=tuple(_with_words(model, words) for model in report.models))


def _with_words(model: ModelResult, words: tuple[str, ...]) -> ModelResult:
    attention = None if model.attention is None else replace(model.attention, token=words)
    return replace(model, series=replace(model.series, token=words), attention=attention)


def costs(seed: int) -> Report:
    """What a training step of the three kinds takes, on random input."""
    spec = RunSpec(models=KINDS, hidden=HIDDEN, length=COSTED, seed=seed)
    return diagnose(spec, costs=True, detail=False)


def shares(model: ModelResult) -> list[float]:
    """Part of each word, in reading order, in the summed influence of all words before the verb; they sum to 1."""
    back = [value for value in Profile.of(model).values[1:] if value is not None]
    parts = [10.0 ** max(value, -300.0) for value in reversed(back)]
    total = sum(parts)
    return [part / total if total > 0 else 0.0 for part in parts]


def left(model: ModelResult, step: int) -> float | None:
    """log10 of the influence of the word at `step` beside the strongest word before the verb."""
    profile = Profile.of(model)
    found, known = profile.at(step), [value for value in profile.values[1:] if value is not None]
    return None if found is None or not profile.lag_of(step) else found - max(known)

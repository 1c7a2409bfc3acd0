"""Weights are weighed before they are drawn."""

from __future__ import annotations

import re

import pytest
import torch

from gradscope.errors import UsageError
from gradscope.models import family
from gradscope.models.family import Draw, family_model

FREE = 2**20


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 1 MiB left."""
    monkeypatch.setattr(family, "available_bytes", lambda: FREE)


def build(word: str) -> object:
    family, _, options = word.partition(":")
    given = dict(option.split("=") for option in options.split(","))
    return family_model(family, given, word, {}).build(input_size=4, seed=0, dtype=torch.float64)


@pytest.mark.parametrize(
    "word", ["rnn:hidden=100000", "lstm:hidden=100000", "gru:hidden=100000", "attention:hidden=99996"]
)
def test_what_cannot_fit_is_refused_with_sizes_and_what_fits(small: None, word: str) -> None:
    with pytest.raises(UsageError, match=r"need [\d,.]+ GiB and 0\.0 GiB are free; a smaller model fits, --hidden \d+"):
        build(word)


def test_what_fits_is_right(small: None) -> None:
    with pytest.raises(UsageError) as refused:
        build("lstm:hidden=2000")
    hidden = int(re.search(r"--hidden (\d+)", str(refused.value)).group(1))
    assert 16 <= hidden < 2000
    build(f"lstm:hidden={hidden}")


def test_matrices_count_together(small: None) -> None:
    draw = Draw(0, torch.float64, "cpu")
    draw.normal(180, 180)
    draw.orthogonal(180)
    with pytest.raises(UsageError, match=r"^3 matrices of weights, the last of 200 x 200, need"):
        draw.uniform(200, 200, bound=1.0)


def test_where_nothing_is_known_of_memory_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family, "available_bytes", lambda: None)
    assert Draw(0, torch.float64, "cpu").identity(300).shape == (300, 300)

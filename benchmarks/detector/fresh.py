"""A second study, named after the first was scored and frozen before its own first run: everything in it is held out.

Cells that nobody here wrote (torchrecurrent), options, depths and lags that the first study has not, and every
setting with and without clipping, so that limits chosen on the outcomes of the first are judged on others.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from benchmarks.detector.catalogue import CLIP, Combination, grid
from benchmarks.detector.outcome import outcome
from gradscope.sequences.tasks import LagKind

CLIPS = (CLIP, None)
FAMILIES: Mapping[str, tuple[str, ...]] = {
    **{
        cell: (f"torchrecurrent:{cell}", f"torchrecurrent:{cell},recurrent=orthogonal")
        for cell in ("STAR", "UGRNN", "JANET", "MGU", "RAN", "LEM")
    },
    **{cell: (f"torchrecurrent:{cell}",) for cell in ("BR", "IndRNN", "coRNN", "AntisymmetricRNN")},
    "rnn": ("rnn:init=normal,gain=0.7", "rnn:init=normal,gain=1.05", "rnn:init=orthogonal,gain=1.1", "rnn:layers=2"),
    "irnn": ("rnn:nonlinearity=relu,init=identity,gain=0.95", "rnn:nonlinearity=relu,init=normal,gain=1.4"),
    "lstm": ("lstm:forget_bias=3", "lstm:forget_bias=5", "lstm:layers=2", "lstm:layers=2,forget_bias=3"),
    "gru": ("gru:update_bias=3", "gru:update_bias=5", "gru:layers=2"),
    "lru": ("lru:r_min=0.7,r_max=0.9", "lru:r_min=0.9,r_max=0.99"),
}
TASKS: tuple[tuple[str, LagKind], ...] = (
    ("recall", "fixed"),
    ("adding", "fixed"),
    ("copy", "fixed"),
    ("xor", "fixed"),
    ("adding", "spread"),
    ("recall", "spread"),
)
LAGS = (15, 30, 70)


def fresh() -> list[Combination]:
    """All of them, in an order in which any beginning is a fair sample: shuffled by seed 1."""
    wanted = grid(FAMILIES, TASKS, LAGS)
    random.Random(1).shuffle(wanted)
    return wanted


def fresh_outcome(one: Combination) -> dict[str, Any]:
    """What became of one; all of it is held out."""
    return {**outcome(one, CLIPS), "part": "held out"}

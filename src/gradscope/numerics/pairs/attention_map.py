"""Attention weights of one sequence, as many as a report can hold."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gradscope.errors import UsageError
from gradscope.models.direct import Direct
from gradscope.records import Attention

TOKENS_SHOWN = 64
"""Steps of an attention map, which has a square of numbers per head."""
MOST_WEIGHTS = 2**18
"""Numbers in all maps of a model together: with many layers and heads fewer steps are kept, ..."""
FEWEST_SHOWN = 16
"""... but not fewer than these."""


def attention_maps(
    model: Direct, x_item: Tensor, tokens: Sequence[str] | None, limit: int = TOKENS_SHOWN
) -> Attention | None:
    """Attention weights over the first `limit` steps of one sequence, (1, T, I) or ids (1, T).

    None where they cannot be read.
    """
    layers = _weights(model, x_item[:, :limit])
    maps = sum(layer.shape[1] for layer in layers)
    if not maps:
        return None
    fits = max(FEWEST_SHOWN, math.isqrt(MOST_WEIGHTS // maps))
    if fits < layers[0].shape[-1]:
        return attention_maps(model, x_item, tokens, fits)
    weights = tuple(tuple(tuple(tuple(row) for row in head) for head in layer[0].double().tolist()) for layer in layers)
    return Attention(None if tokens is None else tuple(tokens[: layers[0].shape[-1]]), weights)


def _weights(model: Direct, x: Tensor) -> list[Tensor]:
    if model.weights is None:
        return []
    try:
        with torch.no_grad():
            return model.weights(x)
    except UsageError:  # a user's module may take sequences of one length only
        return []

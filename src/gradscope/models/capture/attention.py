"""Attention weights inside a user's module: what every torch.nn.MultiheadAttention looked at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def holds_attention(module: nn.Module) -> bool:
    """Whether there is any."""
    return any(isinstance(part, nn.MultiheadAttention) for part in module.modules())


def attention_weights(module: nn.Module, x: Tensor) -> list[Tensor]:
    """Weights of every call whose queries and keys are the same steps, in order, each (batch, heads, T, T).

    Args:
        module: what is looked into; run on
        x: its input, batch first.
    """
    found: list[Tensor] = []

    def ask(part: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "need_weights": True, "average_attn_weights": False}

    def keep(part: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        weights = output[1]
        if weights is not None and weights.ndim == 4 and weights.shape[-1] == weights.shape[-2]:
            found.append(weights.detach())

    with ExitStack() as hooks, torch.no_grad(), _slow_path():
        for part in module.modules():
            if isinstance(part, nn.MultiheadAttention):
                hooks.callback(part.register_forward_pre_hook(ask, with_kwargs=True).remove)
                hooks.callback(part.register_forward_hook(keep, with_kwargs=True).remove)
        module(x)
    return found


@contextmanager
def _slow_path() -> Iterator[None]:
    """In evaluation mode encoder layers take a fused way that calls no attention at all."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)

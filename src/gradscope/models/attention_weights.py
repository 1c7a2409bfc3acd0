"""Where the attention inside a user's module looks: its weights, read while it works."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.models.fused_recurrence import hooked
from gradscope.models.whole_module import WholeModule


def holds_attention(module: nn.Module) -> bool:
    """Whether an nn.MultiheadAttention lies inside, those of nn.TransformerEncoder and the like included."""
    return any(isinstance(part, nn.MultiheadAttention) for part in module.modules())


def attended(model: WholeModule, x: Tensor) -> list[Tensor]:
    """Weights (batch, heads, T, T) of every call of nn.MultiheadAttention from the sequence to itself, in that order.

    Runs the module once more on x (batch, T, features) or ids (batch, T).

    Raises:
        UsageError: the module fails on x.
    """
    found: list[Tensor] = []
    averaged: list[tuple[bool, bool]] = []
    with ExitStack() as hooks, torch.no_grad():
        hooks.enter_context(_slow_path())
        for part in model.module.modules():
            if isinstance(part, nn.MultiheadAttention):
                handle = part.register_forward_pre_hook(partial(_ask, averaged), with_kwargs=True)
                hooks.callback(handle.remove)
                hooks.enter_context(hooked(part, partial(_note, found, averaged)))
        model.run(model.laid_out(x))
    steps = x.shape[1]
    return [weights for weights in found if weights.ndim == 4 and weights.shape[-2:] == (steps, steps)]


WANTED: tuple[tuple[str, int, bool, bool], ...] = (
    ("need_weights", 4, True, True),
    ("average_attn_weights", 6, True, False),
)
"""Arguments of nn.MultiheadAttention: name, place, default, and what is asked for here."""


def _ask(asked: list[tuple[bool, bool]], part: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Ask for weights by head, and remember what the module itself wanted."""
    args, kwargs, own = list(args), dict(kwargs), []
    for name, place, default, wanted in WANTED:
        own.append(bool(args[place] if len(args) > place else kwargs.get(name, default)))
        if len(args) > place:
            args[place] = wanted
        else:
            kwargs[name] = wanted
    asked.append((own[0], own[1]))
    return tuple(args), kwargs


def _note(
    found: list[Tensor], asked: list[tuple[bool, bool]], part: nn.Module, args: Any, kwargs: Any, output: Any
) -> Any:
    """Keep the weights; hand on what the module would have got."""
    y, weights = output
    found.append(weights.detach())
    needed, averaged = asked.pop()
    return y, (weights.mean(-3) if averaged else weights) if needed else None


@contextmanager
def _slow_path() -> Iterator[None]:
    """Without the fused inference of torch.nn, which keeps no weights."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def reader(model: WholeModule) -> Callable[[Tensor], list[Tensor]] | None:
    """What reads the attention weights of a user's module; None where there is no attention to read."""
    return partial(attended, model) if holds_attention(model.module) else None

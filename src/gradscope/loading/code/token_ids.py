"""Does a module take token ids, and which?"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.config.check import SYNTHETIC_LENGTH
from gradscope.models.capture.reading import storages
from gradscope.models.capture.watch import hooked
from gradscope.models.direct import default_dtype
from gradscope.models.output_shape import leaves_of
from gradscope.models.token_ids import TokenIds


def token_ids(module: nn.Module) -> TokenIds | None:
    """The ids that a module takes: it holds an embedding and runs on two of them. None for a module of numbers."""
    sizes = [part.num_embeddings for part in module.modules() if isinstance(part, nn.Embedding)]
    if not sizes:
        return None
    weight = next(module.parameters())
    read: list[int] = []

    def run(steps: int) -> Any:
        ids = torch.zeros(1, steps, dtype=torch.int64, device=weight.device)
        with ExitStack() as hooks, torch.no_grad(), default_dtype(weight.dtype):
            for part in module.modules():
                if isinstance(part, nn.Embedding):
                    hooks.enter_context(hooked(part, partial(_note, read, ids)))
            return module(ids)

    found = _tried(run, 2)
    if found is None:
        return None
    tensor = next((value for value in leaves_of(found) if isinstance(value, Tensor)), None)
    width = tensor.shape[-1] if tensor is not None and tensor.ndim == 3 else None
    return TokenIds(read[0] if read else sizes[0], width, _longest(lambda steps: _tried(run, steps) is not None))


def _note(read: list[int], ids: Tensor, part: nn.Embedding, args: Any, kwargs: Any, output: Any) -> None:
    """Rows of the embedding that reads the ids themselves: another may hold positions."""
    given = args[0] if args else kwargs.get("input")
    if isinstance(given, Tensor) and storages([given]) & storages([ids]):
        read.append(part.num_embeddings)


def _tried(run: Callable[[int], Any], steps: int) -> Any:
    try:
        return run(steps)
    except Exception:  # a user's module may refuse ids, or a length, in any way
        return None


def _longest(runs: Callable[[int], bool]) -> int | None:
    """The most steps it takes, by bisection; None where it takes as many as a sequence has when nothing is said."""
    if runs(SYNTHETIC_LENGTH):
        return None
    fits, fails = 2, SYNTHETIC_LENGTH
    while fails - fits > 1:
        middle = (fits + fails) // 2
        fits, fails = (middle, fails) if runs(middle) else (fits, middle)
    return fits

"""Which of a module's outputs hear of the newest input: those a loss at every step is looked back from."""

from __future__ import annotations

import torch
from torch import Tensor

from gradscope.errors import UsageError
from gradscope.models.capture.given import run_moved
from gradscope.models.direct import Direct
from gradscope.models.output_shape import reals

MOVED = 0.01
"""How far an input is moved, as a part of its size and as a number: far above rounding."""


def of_newest(model: Direct, x: Tensor, v: tuple[Tensor | None, ...], newest: Tensor) -> tuple[Tensor | None, ...]:
    """The cotangents of the outputs that change with the newest inputs; the very same where that is all of them.

    They need no axis of steps for it: logits (batch * T, classes), a list of T tensors, every fourth step.

    Args:
        model: the module.
        x: inputs (batch, T, features), or token ids (batch, T).
        v: dL/dy of every tensor that the module returns.
        newest: the newest step (1..T) that the loss hears of, by sequence.
    """
    if sum(int((g != 0).sum()) for g in v if g is not None) <= len(x):
        return v
    where = torch.arange(1, x.shape[1] + 1, device=x.device) == newest.to(x.device)[:, None]
    try:
        before, after = (_outputs(model, x, where if moved else torch.zeros_like(where)) for moved in (False, True))
    except UsageError:
        # It refuses other numbers than its own.
        return v
    if [y.shape for y in before] != [y.shape for y in after] or len(before) != len(v):
        return v
    kept = tuple(
        None if g is None else torch.where((a != b).to(g.device), g, torch.zeros_like(g))
        for g, a, b in zip(v, before, after, strict=True)
    )
    heard = any(g is not None and bool((g != 0).any()) for g in kept)
    same = all(g is None or torch.equal(g, one) for g, one in zip(v, kept, strict=True) if one is not None)
    return v if same or not heard else kept


def is_last_step(kept: Tensor | None, v: Tensor | None, steps: int) -> bool:
    """Whether what hears of the newest inputs is the last step of outputs (batch, steps * classes), in either order.

    Args:
        kept: dL/dy of those outputs, (batch, features), zero elsewhere.
        v: dL/dy of all of them.
        steps: T; features is a multiple of it.
    """
    if kept is None or v is None or kept is v:
        return False
    heard, read = ((g != 0).any(0) for g in (kept, v))
    both = torch.stack((heard, read))
    orders = (both.reshape(2, steps, -1), both.reshape(2, -1, steps).transpose(1, 2))
    return any(not bool(heard[:-1].any()) and torch.equal(heard[-1], read[-1]) for heard, read in orders)


@torch.no_grad()
def _outputs(model: Direct, x: Tensor, where: Tensor) -> list[Tensor]:
    """What the module returns when its input, or what its embeddings make of ids, is moved at some steps."""
    if x.is_floating_point():
        return reals(model.run(model.laid_out(torch.where(where[..., None], x * (1 + MOVED) + MOVED, x))))
    return reals(run_moved(model, x, lambda leaf, _: leaf + MOVED * where[..., None].to(leaf)))

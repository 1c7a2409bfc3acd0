"""Which of a module's outputs hear of the newest input: those a loss at every step is looked back from."""

from __future__ import annotations

import torch
from torch import Tensor

from gradscope.models.capture.given import Embeddings, Tokens
from gradscope.models.direct import Direct
from gradscope.models.output_shape import reals

MOVED = 0.01
"""How far an input is moved, beside its own size: far enough for any rounding, and no zero becomes another."""


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
    with torch.no_grad():
        before, after = (_outputs(model, x, where if moved else torch.zeros_like(where)) for moved in (False, True))
    if [y.shape for y in before] != [y.shape for y in after] or len(before) != len(v):
        return v
    kept = tuple(
        None if g is None else torch.where((a != b).to(g.device), g, torch.zeros_like(g))
        for g, a, b in zip(v, before, after, strict=True)
    )
    heard = any(g is not None and bool((g != 0).any()) for g in kept)
    same = all(g is None or torch.equal(g, one) for g, one in zip(v, kept, strict=True) if one is not None)
    return v if same or not heard else kept


def _outputs(model: Direct, x: Tensor, where: Tensor) -> list[Tensor]:
    """What the module returns when its input, or what its embeddings make of ids, is moved at some steps."""
    taken = None if x.is_floating_point() else model.laid_out(x)
    if taken is None:
        return reals(model.run(model.laid_out(torch.where(where[..., None], x * (1 + MOVED) + MOVED, x))))
    tokens = Tokens(model.module, taken, model.tables)
    weight = next(p for p in model.module.parameters() if p.is_floating_point())
    width = max((known.stop for known in model.tables.values()), default=0)
    leaf = weight.new_zeros(*x.shape, width) + MOVED * where[..., None].to(weight)
    tokens.leaf = model.laid_out(leaf).contiguous()
    return reals(model.run(tokens.taken, Embeddings(tokens)))

"""Which layers of a model are watched."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from gradscope.errors import UsageError
from gradscope.registry import unknown
from gradscope.text import safe_text


def plain_model(model: nn.Module) -> nn.Module:
    """The module inside what torch.compile and data parallelism wrap around it."""
    if not isinstance(model, nn.Module):
        raise UsageError(f"Monitor watches an nn.Module; it was given a {safe_text(type(model).__name__)}")
    inside = getattr(model, "_orig_mod", None) or (
        model.module if type(model).__name__ in ("DataParallel", "DistributedDataParallel") else None
    )
    return plain_model(inside) if isinstance(inside, nn.Module) else model


def watched(model: nn.Module, names: Sequence[str] | None) -> dict[str, nn.RNNBase]:
    """Recurrent layers of torch.nn by their path; all of them, or those that are named.

    Raises:
        UsageError: a name that is no such layer.
    """
    known = {path or type(part).__name__: part for path, part in model.named_modules() if isinstance(part, nn.RNNBase)}
    if names is None:
        return known
    for name in names:
        if name not in known:
            raise UsageError(f"{unknown('layer', name, known or ['none: the model has no nn.RNN, GRU or LSTM'])}")
    return {name: known[name] for name in names}

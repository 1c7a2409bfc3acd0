"""Gradients through the graph of a user's module, which may refuse to give them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gradscope.errors import UsageError
from gradscope.text import safe_text


def gradients(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """Gradients of sum <cotangent, output> with respect to `inputs`, None for what is not joined; the graph stays.

    Raises:
        UsageError: torch cannot differentiate the module, with its own words.
    """
    try:
        return torch.autograd.grad(outputs, inputs, cotangents, retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        what = safe_text(str(error).partition("\n")[0], 160)
        raise UsageError(f"torch cannot differentiate the module: {what}; does its loss.backward() work?") from error

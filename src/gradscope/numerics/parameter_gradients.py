"""dL/dW of every parameter by itself, as training sees it: summed over steps and sequences."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradscope.models.stack import Recurrent
from gradscope.models.whole_module import WholeModule

Gradients = dict[str, Tensor | None]


def parameter_gradients(model: WholeModule | Recurrent, x: Tensor, loss: Any) -> tuple[Gradients, Tensor | None]:
    """By name, None for what the loss does not depend on; and dL/dx, None for a model of token ids.

    Args:
        model: the model.
        x: (batch, T, features), or ids (batch, T).
        loss: a function of the output.
    """
    given = x.detach().clone().requires_grad_() if x.is_floating_point() else x
    with torch.enable_grad():
        if isinstance(model, Recurrent):
            return _of_stack(model, given, loss)
        wanted = {name: p for name, p in model.parameters().items() if p.is_floating_point()}
        before = {name: p.requires_grad for name, p in wanted.items()}
        try:
            for p in wanted.values():
                p.requires_grad_(True)
            return _differentiated(loss_value(model, given, loss), wanted, given)
        finally:
            for name, p in wanted.items():
                p.requires_grad_(before[name])


def loss_value(model: WholeModule, x: Tensor, loss: Any) -> Tensor:
    """The loss of the module on x (batch, T, features) or ids (batch, T)."""
    raw = model.run(model.laid_out(x))
    own = getattr(loss, "reads_raw", True) and model.kind == "module"
    value: Tensor = loss(raw) if own else loss(model.output(raw, x))
    return value


def _of_stack(model: Recurrent, x: Tensor, loss: Any) -> tuple[Gradients, Tensor | None]:
    kept = [dict(cell.parameters) for cell in model.cells]
    leaves = {}
    try:
        for cell in model.cells:
            cell.parameters = {key: p.detach().clone().requires_grad_() for key, p in cell.parameters.items()}
            leaves.update({f"{cell.name}.{key}": p for key, p in cell.parameters.items()})
        return _differentiated(loss(model(x)), leaves, x)
    finally:
        for cell, before in zip(model.cells, kept, strict=True):
            cell.parameters = before


def _differentiated(value: Tensor, wanted: dict[str, Tensor], x: Tensor) -> tuple[Gradients, Tensor | None]:
    asked = [*wanted.values(), *([x] if x.requires_grad else [])]
    if not asked or not value.requires_grad:
        return dict.fromkeys(wanted), None
    found = torch.autograd.grad(value, asked, allow_unused=True)
    given = found[-1] if x.requires_grad else None
    return dict(zip(wanted, found, strict=False)), given

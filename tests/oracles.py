"""Slow truths: dense autograd, products at hundreds of digits, torch.nn filled with the same weights."""

from __future__ import annotations

import mpmath
import torch
from torch import Tensor, nn

from gradscope.models.stack import Recurrent


def joint_step(model: Recurrent, x: Tensor, s: Tensor) -> Tensor:
    """One step of a whole stack on the joint state, (batch, size) -> (batch, size), in differentiable operations."""
    parts, flow = list(s.split([cell.state_size for cell in model.cells], -1)), x
    for index, cell in enumerate(model.cells):
        parts[index] = cell.step(flow, parts[index])
        flow = cell.output(flow, parts[index])
    return torch.cat(parts, -1)


def joint_states(model: Recurrent, x: Tensor) -> list[Tensor]:
    """s_0 .. s_T of the joint state, each (batch, size)."""
    states = [torch.cat(model.initial_states(x.shape[0]), -1)]
    for step in x.unbind(1):
        states.append(joint_step(model, step, states[-1]))
    return states


def dense_jacobians(model: Recurrent, x: Tensor) -> Tensor:
    """J_1 .. J_T by torch.autograd, one row at a time, (batch, T, size, size)."""
    states, found = joint_states(model, x), []
    for t, step in enumerate(x.unbind(1)):
        jacobian = torch.autograd.functional.jacobian(
            lambda s, step=step: joint_step(model, step, s).sum(0), states[t].detach()
        )
        found.append(jacobian.permute(1, 0, 2))
    return torch.stack(found, 1)


def state_gradients(model: Recurrent, x: Tensor, v: Tensor) -> list[Tensor]:
    """dL/ds_0 .. dL/ds_T of L = <v, y>, each (batch, size), by torch.autograd through the unrolled graph."""
    states = [[s.requires_grad_() for s in model.initial_states(x.shape[0])]]
    outputs = []
    for step in x.unbind(1):
        flow, new = step, []
        for index, cell in enumerate(model.cells):
            new.append(cell.step(flow, states[-1][index]))
            flow = cell.output(flow, new[-1])
        states.append(new)
        outputs.append(flow)
    loss = (torch.stack(outputs, 1) * v).sum()
    flat = [part for parts in states for part in parts]
    found = torch.autograd.grad(loss, flat, allow_unused=True)
    filled = [torch.zeros_like(part) if g is None else g for part, g in zip(flat, found, strict=True)]
    width = len(model.cells)
    return [torch.cat(filled[i : i + width], -1) for i in range(0, len(filled), width)]


def torch_twin(model: Recurrent, family: str, **kwargs: object) -> nn.RNN | nn.GRU | nn.LSTM:
    """torch.nn's module of the same family, filled with the model's weights."""
    kinds = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
    bias, first = "bias_ih" in model.cells[0].parameters, model.cells[0]
    if "weight_hr" in first.parameters:
        kwargs = {**kwargs, "proj_size": first.output_size}
    twin = kinds[family](
        model.input_size,
        first.parameters["weight_hr"].shape[1] if "weight_hr" in first.parameters else model.output_size,
        len(model.cells),
        bias=bias,
        batch_first=True,
        dtype=torch.float64,
        **kwargs,
    )
    for index, cell in enumerate(model.cells):
        for key, value in cell.parameters.items():
            getattr(twin, f"{key}_l{index}").data.copy_(value)
    return twin


def log_singular_values(factors: Tensor, digits: int = 400) -> Tensor:
    """ln of the singular values of F_n ... F_1, largest first, at `digits` decimal digits by mpmath."""
    with mpmath.workdps(digits):
        product = mpmath.eye(factors.shape[-1])
        for factor in factors.tolist():
            product = mpmath.matrix(factor) * product
        values = mpmath.svd_r(product, compute_uv=False)
        return torch.tensor(sorted((float(mpmath.log(v)) for v in values), reverse=True), dtype=torch.float64)

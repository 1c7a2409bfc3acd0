"""What people do today, written as well as it can be in the same number of lines."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.models import final_loss
from gradscope.models.stack import Recurrent

Step = Callable[[Tensor, Tensor], Tensor]


def tanh_step(model: Recurrent) -> Step:
    """s_t = tanh(W_ih x + b_ih + W_hh s + b_hh), for one vector x and s."""
    w = {key.removeprefix("l0."): value for key, value in model.parameters().items()}
    bias = w["bias_ih"] + w["bias_hh"]
    return lambda x, s: torch.tanh(w["weight_ih"] @ x + w["weight_hh"] @ s + bias)


def states_before(module: nn.RNNBase, x: Tensor) -> Tensor:
    """s_0 .. s_{T-1} of one sequence x (1, T, features), (T, H), by torch's own forward pass."""
    with torch.no_grad():
        output = module(x)[0][0]
    return torch.cat([torch.zeros_like(output[:1]), output[:-1]])


def autograd_loop(step: Step, module: nn.RNNBase, x: Tensor, steps: int) -> list[Tensor]:
    """torch.autograd.functional.jacobian at the first `steps` steps, one after the other."""
    states = states_before(module, x[:, :steps])
    found = []
    for feature, state in zip(x[0, :steps], states, strict=True):
        found.append(torch.autograd.functional.jacobian(lambda s, feature=feature: step(feature, s), state))
    return found


def jacrev_vmap(step: Step, module: nn.RNNBase, x: Tensor) -> Tensor:
    """All J_t at once, (T, N, N), by torch.func."""
    with torch.no_grad():
        found: Tensor = torch.func.vmap(torch.func.jacrev(step, argnums=1))(x[0], states_before(module, x))
    return found


def exponents_and_norms(jacobians: Tensor) -> tuple[Tensor, Tensor]:
    """Lyapunov exponents by QR at every step, and ln sigma_max of J_T ... J_{t+1} for every t, from given Jacobians."""
    q = torch.eye(jacobians.shape[-1], dtype=jacobians.dtype)
    growth, norms = [], []
    for jacobian in jacobians:
        q, r = torch.linalg.qr(jacobian @ q)
        growth.append(r.diagonal().abs().log())
    p, log = torch.eye(jacobians.shape[-1], dtype=jacobians.dtype), torch.zeros((), dtype=jacobians.dtype)
    for jacobian in jacobians.flip(0):
        p = p @ jacobian
        norm = torch.linalg.matrix_norm(p, 2)
        log = log + norm.log()
        norms.append(log)
        p = p / norm
    return torch.stack(growth).mean(0), torch.stack(norms)


def fused_step(module: nn.RNNBase, x: Tensor) -> None:
    """Forward and backward of torch's module: the price of one training step without its optimiser."""
    module.zero_grad(set_to_none=True)
    final_loss(module(x)[0]).backward()


def retain_grad_loop(cell: nn.LSTMCell, x: Tensor) -> tuple[Tensor, Tensor]:
    """Norms of dL/dh_t with those of dL/dc_t, (T, B), and of dL/dx_t, (T, B), from a cell whose states keep their grad.

    As people write it: what autograd keeps for c_t also counts its way through h_t of the same step.
    """
    inputs = [step.detach().requires_grad_() for step in x.unbind(1)]
    h = c = x.new_zeros(x.shape[0], cell.hidden_size)
    states = []
    for step in inputs:
        h, c = cell(step, (h, c))
        h.retain_grad()
        c.retain_grad()
        states.append((h, c))
    cell.zero_grad(set_to_none=True)
    final_loss(h[:, None]).backward()
    zero = torch.zeros_like(h)
    # The last c has no path to the loss of its own.
    joint = [torch.cat([zero if s.grad is None else s.grad for s in pair], -1).norm(dim=-1) for pair in states]
    seen = [step.grad.norm(dim=-1) for step in inputs if step.grad is not None]
    return torch.stack(joint), torch.stack(seen)


def cell_of(module: nn.RNNBase) -> nn.LSTMCell:
    """The cell with the weights of a one-layer nn.LSTM."""
    weights = {key.removesuffix("_l0"): value for key, value in module.state_dict().items()}
    made = nn.LSTMCell(module.input_size, module.hidden_size, dtype=weights["weight_hh"].dtype)
    made.load_state_dict(weights)
    return made

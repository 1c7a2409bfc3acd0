"""Gradient flossing (Engelken 2023): before training, weights are moved until the leading exponents are near zero.

What is descended is the sum of the squared finite-time Lyapunov exponents of a layer on the data at hand, through the
trajectory and through the QR decompositions by which the exponents are found: of what goes back, J_1^T ... J_T^T, whose
singular values are those of the product itself. A stack is gone through from the bottom,
each layer driven by what the one below, flossed already, gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vjp

from gradscope.fixes.layer_edit import changed, which
from gradscope.fixes.remedy import Layer, LayerKind, Remedy, RemedyInput, RemedyResult, of_first_steps
from gradscope.models.cell import Cell
from gradscope.models.gru import GRUCell
from gradscope.models.lstm import LSTMCell
from gradscope.models.rnn import RNNCell
from gradscope.models.whole_module import WholeModule
from gradscope.numerics.costs import threads_for

DIRECTIONS = 8
"""Exponents that are brought to zero, the leading ones."""
DESCENTS = 30
RATE = 2e-2
"""Of Adam, falling to a tenth of it."""
LONGEST = 50
"""Steps of the sequence that the exponents are measured on."""
LINES = f"""import torch
from torch import nn
from torch.func import functional_call, vjp, vmap

# x: what rnn is given of one sequence, (T, features)
cells, H = {{nn.RNN: nn.RNNCell, nn.LSTM: nn.LSTMCell, nn.GRU: nn.GRUCell}}, rnn.hidden_size
pair, xs = isinstance(rnn, (nn.LSTM, nn.LSTMCell)), x[:{LONGEST}]
for end in [f"_l{{layer}}" for layer in range(getattr(rnn, "num_layers", 0))] or [""]:
    weights = {{name.removesuffix(end): value for name, value in rnn.named_parameters() if name.endswith(end)}}
    cell = cells.get(type(rnn), type(rnn))(xs.shape[1], H, bias=rnn.bias)
    cell.nonlinearity = getattr(rnn, "nonlinearity", "tanh")

    def step(x_t, s):
        new = functional_call(cell, weights, (x_t, tuple(s.chunk(2)) if pair else s))
        return torch.cat(new) if pair else new

    adam = torch.optim.Adam(weights.values(), lr={RATE})
    for descent in range({DESCENTS}):
        s, pulls, exponents = x.new_zeros(2 * H if pair else H), [], 0.0
        for x_t in xs:
            s, pull = vjp(lambda z: step(x_t, z), s)
            pulls.append(pull)
        drawn = torch.randn(len(s), min({DIRECTIONS}, len(s)), generator=torch.Generator().manual_seed(descent))
        q = torch.linalg.qr(drawn.to(x)).Q
        for pull in reversed(pulls):
            q, r = torch.linalg.qr(vmap(lambda v: pull(v)[0])(q.T).T)
            exponents = exponents + r.diagonal().abs().log() / len(xs)
        adam.zero_grad()
        exponents.square().sum().backward()
        adam.param_groups[0]["lr"] = {RATE} * (1 - 0.9 * descent / {DESCENTS - 1})
        adam.step()
    with torch.no_grad():
        s, outputs = x.new_zeros(2 * H if pair else H), []
        for x_t in xs:
            s = step(x_t, s)
            outputs.append(s[:H])
        xs = torch.stack(outputs)
"""


def apply(remedy_input: RemedyInput) -> RemedyResult | None:
    """Layers of torch.nn and gradscope's own of the same kinds, in the direction of time; None where there is none."""
    heard = _heard(remedy_input)
    leading: list[tuple[float, float]] = []

    def change(layer: Layer) -> bool:
        x = heard.get(layer.part)
        if layer.backwards or x is None or not layer.is_plain:
            return False
        leaves = {key: value.clone().requires_grad_() for key, value in layer.weights.items()}
        cell = CELLS[layer.kind](layer, leaves)
        found = _descended(cell, x)
        if found is None:
            # The layers above hear something else than was meant, so all of that part stays as it is.
            heard.pop(layer.part)
            return False
        leading.append(found)
        for key, value in leaves.items():
            layer.weights[key].copy_(value.detach())
        with torch.no_grad():
            heard[layer.part] = cell.linearize(x, cell.initial_state(1)).outputs
        return True

    made = changed(remedy_input.model, change)
    if made is None:
        return None
    before, after = max(one for one, _ in leading), max(one for _, one in leading)
    return RemedyResult(
        f"λ₁ from {before:.2g} to {after:.2g}", made.model, which(made.parts or ()) + LINES, made.weights
    )


CELLS: Mapping[LayerKind, Callable[[Layer, dict[str, Tensor]], Cell]] = {
    "rnn": lambda layer, weights: RNNCell("", weights, layer.nonlinearity),
    "lstm": lambda layer, weights: LSTMCell("", weights),
    "gru": lambda layer, weights: GRUCell("", weights),
}


def exponents(cell: Cell, x: Tensor, seed: int = 0) -> Tensor:
    """The leading finite-time exponents of what goes back along x (T, 1, features), nats per step, differentiable.

    It starts from directions drawn with `seed`.
    """
    s, pulls, logs = cell.initial_state(1), [], []
    for x_t in x:
        s, pull, *_ = vjp(lambda z, x_t=x_t: cell.step(x_t, z), s)
        pulls.append(pull)
    drawn = torch.randn(s.shape[1], min(DIRECTIONS, s.shape[1]), generator=torch.Generator().manual_seed(seed))
    q = torch.linalg.qr(drawn.to(s)).Q
    for pull in reversed(pulls):
        found = torch.linalg.qr(torch.vmap(lambda v, pull=pull: pull(v[None])[0][0])(q.T).T)
        q = found.Q
        logs.append(found.R.diagonal().abs().log())
    return torch.stack(logs).mean(0)


def _descended(cell: Cell, x: Tensor) -> tuple[float, float] | None:
    """The leading exponent before and after; None where exponents are not finite (dead units, a linear state of 0)."""
    adam, before = torch.optim.Adam(cell.parameters.values(), lr=RATE), math.nan
    with torch.enable_grad(), threads_for(cell.state_size):
        for descent in range(DESCENTS):
            found = exponents(cell, x, descent)
            if not bool(found.isfinite().all()):
                return None
            before = float(found[0].detach()) if descent == 0 else before
            adam.zero_grad()
            found.square().sum().backward()
            adam.param_groups[0]["lr"] = RATE * (1 - 0.9 * descent / (DESCENTS - 1))
            adam.step()
        after = float(exponents(cell, x)[0].detach())
    return (before, after) if math.isfinite(after) else None


def _heard(remedy_input: RemedyInput) -> dict[str, Tensor]:
    """What drives the lowest layer of every part of the model in the first sequence, (T, 1, features)."""
    model = remedy_input.model
    if not isinstance(model, WholeModule):
        return {"": remedy_input.x[:1, :LONGEST].transpose(0, 1)}
    calls: dict[str, list[Tensor]] = {}

    def hear(path: str, part: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        value = given[0] if given else named.get("input")
        # A packed sequence is of several lengths, and is left alone.
        if isinstance(value, Tensor):
            calls.setdefault(path, []).append(_time_first(part, value))

    hooks = [
        part.register_forward_pre_hook(partial(hear, path), with_kwargs=True)
        for path, part in model.module.named_modules()
        # What drives the upper layers of a bidirectional module comes from its end too.
        if isinstance(part, nn.RNNCellBase) or (isinstance(part, nn.RNNBase) and not part.bidirectional)
    ]
    try:
        with torch.no_grad():
            of_first_steps(lambda x: model.run(model.laid_out(x)), remedy_input.x[:1], LONGEST)
    finally:
        for hook in hooks:
            hook.remove()
    return {path: torch.cat(parts)[:LONGEST] for path, parts in calls.items()}


def _time_first(part: nn.Module, given: Tensor) -> Tensor:
    """(T, 1, features) of one sequence, or of one step of it."""
    if isinstance(part, nn.RNNCellBase):
        return given.reshape(1, -1, given.shape[-1])[:, :1].detach()
    batched = given if given.ndim == 3 else given.unsqueeze(0 if getattr(part, "batch_first", False) else 1)
    first = batched.transpose(0, 1) if getattr(part, "batch_first", False) else batched
    return first[:, :1].detach()


REMEDY = Remedy("flossing", "the leading exponents are brought to zero, not the first alone", apply)

"""Whatever a module returns, its numbers are those of plain autograd; the matrix is form x layout x loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope.models.output_shape import OutputShape
from gradscope.records import ModelResult
from gradscope.sequences.losses import direction

BATCH, STEPS = 3, 7


class Net(nn.Module):
    """A loop over steps that returns its states in the form asked for."""

    def __init__(self, form: str, *, time_first: bool = False) -> None:
        super().__init__()
        self.form, self.time_first = form, time_first
        self.w, self.u, self.one, self.two = nn.Linear(5, 5), nn.Linear(4, 5), nn.Linear(5, 1), nn.Linear(5, 2)

    def states(self, x: Tensor) -> Tensor:
        """(batch, T, features)."""
        h, states = torch.zeros(len(x), 5, dtype=x.dtype), []
        for step in x.unbind(1):
            h = torch.tanh(self.w(h) + self.u(step))
            states.append(h)
        return torch.stack(states, 1)

    def forward(self, x: Tensor) -> Any:
        y = self.states(x.transpose(0, 1) if self.time_first else x)
        return FORMS[self.form][0](self, y)


Made = Callable[[Net, Tensor], Any]
FORMS: dict[str, tuple[Made, Made]] = {
    # what it returns of its states (batch, T, features), and the standard form of that
    "(B, T, F)": (lambda net, y: net.two(y), lambda net, y: net.two(y)),
    "(T, B, F)": (lambda net, y: net.two(y).transpose(0, 1), lambda net, y: net.two(y)),
    "(B, F, T)": (lambda net, y: net.two(y).transpose(1, 2), lambda net, y: net.two(y)),
    "(B, T, F, G)": (
        lambda net, y: torch.stack([net.two(y), y[..., :2]], -1),
        lambda net, y: torch.stack([net.two(y), y[..., :2]], -1).flatten(2),
    ),
    "(B, T)": (lambda net, y: net.one(y)[..., 0], lambda net, y: net.one(y)),
    "(B, F)": (lambda net, y: net.two(y[:, -1]), lambda net, y: net.two(y[:, -1])),
    "(B, F), F = T": (
        lambda net, y: torch.cat([y[:, -1], net.two(y[:, -1])], -1),
        lambda net, y: torch.cat([y[:, -1], net.two(y[:, -1])], -1),
    ),
    "(B,)": (lambda net, y: net.one(y[:, -1]).squeeze(-1), lambda net, y: net.one(y[:, -1])),
    "(layers, B, F)": (
        lambda net, y: torch.stack([y[:, -1], y[:, -2]]),
        lambda net, y: torch.cat([y[:, -1], y[:, -2]], -1),
    ),
    "scalar": (lambda net, y: net.two(y[:, -1]).square().sum(), lambda net, y: net.two(y[:, -1]).square().sum()),
    "tuple": (lambda net, y: (net.one(y[:, -1])[:, 0], y), lambda net, y: net.one(y[:, -1])),
    "dict": (lambda net, y: {"y": net.two(y), "h": y}, lambda net, y: net.two(y)),
}


def by_hand(net: Net, x: Tensor, loss: Callable[[Tensor], Tensor]) -> list[float]:
    """log10 of the geometric mean over sequences of ||dL/dx_t||, by plain autograd."""
    leaf = x.clone().requires_grad_()
    loss(FORMS[net.form][1](net, net.states(leaf))).backward()
    assert leaf.grad is not None
    return leaf.grad.norm(dim=-1).log10().mean(0).tolist()


def textbook(name: str) -> Callable[[Tensor], Tensor]:
    """`final` and `every` of the standard form, as README says them."""

    def loss(y: Tensor) -> Tensor:
        if not y.ndim:
            return y
        read = y[:, -1] if name == "final" and y.ndim == 3 else y
        return (read @ direction(0, y.shape[-1])).sum()

    return loss


def measured(net: nn.Module, x: Tensor, loss: Any, **settings: Any) -> ModelResult:
    return gradscope.analyze(net, x, loss, **settings).models[0]


@pytest.mark.parametrize(("loss", "time_first"), [("final", False), ("every", False), ("final", True)])
@pytest.mark.parametrize("form", FORMS)
def test_gradients_and_influence_are_those_of_autograd(form: str, loss: str, time_first: bool) -> None:
    torch.manual_seed(3)
    net, x = Net(form, time_first=time_first).double(), torch.randn(BATCH, STEPS, 4, dtype=torch.float64)
    found = measured(net, x, loss, layout="time-first" if time_first else "batch-first")
    assert found.loaded.equality_check is not None
    assert found.loaded.equality_check.passed
    values = found.series.values
    assert values["log10_grad_input"] == pytest.approx(by_hand(net, x, textbook(loss)), abs=1e-9)
    # The influence is that of the newest answer alone.
    newest = textbook("every" if form == "scalar" else "final")
    assert values["log10_influence"] == pytest.approx(by_hand(net, x, newest)[::-1], abs=1e-9)
    assert found.summary.chain_rule_residual == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("form", [form for form in FORMS if form not in ("tuple", "dict")])
def test_a_loss_of_the_users_own_is_given_what_the_module_returns(form: str) -> None:
    torch.manual_seed(4)
    net, x = Net(form).double(), torch.randn(BATCH, STEPS, 4, dtype=torch.float64)
    seen: list[torch.Size] = []

    def loss(y: Tensor) -> Tensor:
        seen.append(y.shape)
        return y.square().sum()

    values = measured(net, x, loss).series.values
    assert set(seen) == {net(x).shape}
    leaf = x.clone().requires_grad_()
    net(leaf).square().sum().backward()
    assert leaf.grad is not None
    assert values["log10_grad_input"] == pytest.approx(leaf.grad.norm(dim=-1).log10().mean(0).tolist(), abs=1e-9)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_loss_on_a_layer_of_torch_nn_is_given_its_output_batch_first(bidirectional: bool) -> None:
    torch.manual_seed(5)
    layer = nn.LSTM(4, 3, bidirectional=bidirectional).double()
    seen: list[Any] = []

    def loss(y: Any) -> Tensor:
        seen.append(tuple(y.shape))
        return y[:, -1].sum()

    measured(layer, torch.randn(BATCH, STEPS, 4, dtype=torch.float64), loss)
    assert set(seen) == {(BATCH, STEPS, 3 * (1 + bidirectional))}


@pytest.mark.parametrize("time_first", [False, True])
@pytest.mark.parametrize(
    ("own", "standard", "has_steps"),
    [
        ((), (), False),
        ((3,), (3, 1), False),
        ((3, 7), (3, 7), False),
        ((3, 3), (3, 3), False),
        ((3, 7, 2), (3, 7, 2), True),
        ((7, 3, 2), (3, 7, 2), True),
        ((3, 7, 2, 4), (3, 7, 8), True),
        ((2, 3, 5), (3, 10), False),
        ((3, 4, 5), (3, 4, 5), False),
        ((7, 2), (7, 2), False),
    ],
)
def test_axes_are_decided_by_their_sizes(
    own: tuple[int, ...], standard: tuple[int, ...], has_steps: bool, time_first: bool
) -> None:
    shape = OutputShape.of(torch.Size(own), 3, 7, time_first=time_first, by_step=False)
    assert (shape.standard, shape.has_steps) == (standard, has_steps)
    assert shape.has_sequences == (own != () and own != (7, 2))
    y = torch.arange(math.prod(own)).reshape(own)
    assert shape.standardised(y).shape == standard
    assert torch.equal(shape.as_returned(shape.standardised(y)), y)


@pytest.mark.parametrize(("time_first", "own"), [(False, (3, 7)), (True, (7, 3)), (True, (3, 7))])
def test_a_matrix_by_step(time_first: bool, own: tuple[int, int]) -> None:
    shape = OutputShape.of(torch.Size(own), 3, 7, time_first=time_first, by_step=True)
    assert (shape.standard, shape.has_steps) == ((3, 7, 1), True)
    y = torch.arange(21).reshape(own)
    assert torch.equal(shape.standardised(y)[..., 0], y if own == (3, 7) else y.T)
    assert torch.equal(shape.as_returned(shape.standardised(y)), y)

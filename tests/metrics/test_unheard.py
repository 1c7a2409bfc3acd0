"""What acts on the loss without a gradient, in modules where it is known by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import gradscope


class Base(nn.Module):
    """y = rnn(x), scaled by what a variant makes of p and q."""

    start = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(3, 4, batch_first=True)
        self.p = nn.Parameter(torch.full((4,), self.start))
        self.q = nn.Parameter(torch.full((4,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.scaled(self.rnn(x)[0])

    def scaled(self, y: Tensor) -> Tensor:
        return y * self.p + self.q


class Data(Base):
    def scaled(self, y: Tensor) -> Tensor:
        return y * self.p.data + self.q


class NoGrad(Base):
    def scaled(self, y: Tensor) -> Tensor:
        with torch.no_grad():
            scale = self.p.exp()
        return y * scale + self.q


class Unused(Base):
    def scaled(self, y: Tensor) -> Tensor:
        return y + self.q


class Frozen(Data):
    def __init__(self) -> None:
        super().__init__()
        self.p.requires_grad_(False)


class Kink(Base):
    """|p| at 0: the slope on either side is not zero, and autograd's own answer there is."""

    start = 0.0

    def scaled(self, y: Tensor) -> Tensor:
        return y * (1 + self.p.abs()) + self.q


class Extremum(Base):
    """d/dp p^2 = 0 at p = 0."""

    start = 0.0

    def scaled(self, y: Tensor) -> Tensor:
        return y * (1 + self.p**2) + self.q


class Gated(Base):
    """A branch that begins at nothing: what is behind it gets no gradient yet, and acts on nothing yet."""

    start = 0.0

    def scaled(self, y: Tensor) -> Tensor:
        return y + self.p * torch.tanh(self.q)


class Dead(Base):
    start = -1.0

    def scaled(self, y: Tensor) -> Tensor:
        return y + torch.relu(self.p) + self.q


class InputCut(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.scaled(self.rnn(x.detach() * 1)[0])


class AllCut(Base):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.scaled(self.rnn(x)[0])


EXPECTED = {
    Base: (),
    Data: ("p",),
    NoGrad: ("p",),
    Unused: (),
    Frozen: (),
    Kink: (),
    Extremum: (),
    Gated: (),
    Dead: (),
    InputCut: ("the input",),
    AllCut: ("the input", "p", "q", "rnn.weight_ih_l0", "rnn.weight_hh_l0", "rnn.bias_ih_l0", "rnn.bias_hh_l0"),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("module", EXPECTED, ids=lambda module: module.__name__)
def test_what_acts_without_gradient(module: type[Base], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net = module().to(dtype)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    result = gradscope.analyze(net, torch.randn(2, 6, 3), dtype=str(dtype).removeprefix("torch.")).models[0]
    assert result.summary.unheard == EXPECTED[module]
    (found,) = [verdict for verdict in result.verdicts if verdict.code == "GS405"]
    assert found.status == ("fail" if EXPECTED[module] else "pass")
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    if EXPECTED[module]:
        assert result.status == "degenerate"

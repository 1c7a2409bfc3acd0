"""A loss that is the same for every input: what torch calls its gradient is rounding, and no number is made of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope.numerics.sequence_passes import rows_agree


class Normed(nn.Module):
    """An LSTM whose outputs are centred: by hand sum_i LayerNorm(h)_i = 0 for every h."""

    def __init__(self, *, loop: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.loop, self.norm = loop, nn.LayerNorm(6)
        self.rnn = nn.LSTMCell(3, 6) if loop else nn.LSTM(3, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        if not self.loop:
            return self.norm(self.rnn(x)[0])
        state, ys = None, []
        for t in range(x.shape[1]):
            state = self.rnn(x[:, t], state)
            ys.append(self.norm(state[0]))
        return torch.stack(ys, 1)


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("batch", [5])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_rounding_is_not_told_as_a_gradient(loop: bool, batch: int, dtype: str) -> None:
    x = torch.randn(batch, 12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    module = Normed(loop=loop).double()
    found = gradscope.analyze(module, x, lambda y: 0.3 * y[:, -1].sum(), dtype=dtype).models[0]
    assert (found.status, found.summary.rate, found.summary.reach) == ("inconclusive", None, None)
    assert "rounding alone" in found.skipped["rate"]
    assert next(verdict for verdict in found.verdicts if verdict.code == "GS405").status == "pass"


@pytest.mark.parametrize("scale", [1.0, 1e-30])
def test_a_gradient_that_is_merely_small_is_told(scale: float) -> None:
    x = torch.randn(2, 12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    module, head = Normed(loop=False).double(), torch.arange(6, dtype=torch.float64)
    given = x.clone().requires_grad_()
    (scale * module(given)[:, -1] @ head).sum().backward()
    found = gradscope.analyze(module, x, lambda y: (scale * y[:, -1] @ head).sum()).models[0]
    by_torch = given.grad.norm(dim=-1).log10().mean(0).flip(0)
    assert found.series.values["log10_influence"] == pytest.approx(tuple(by_torch.tolist()))


class Far(nn.Module):
    """Only the oldest input is read, and fades by 0.05 a step: by hand I(11) = 0.05^11."""

    def forward(self, x: Tensor) -> Tensor:
        h, ys = x[:, 0], []
        for _ in range(x.shape[1]):
            ys.append(h)
            h = 0.05 * h
        return torch.stack(ys, 1)


def test_a_gradient_that_has_faded_everywhere_is_no_rounding() -> None:
    x = torch.randn(2, 12, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = gradscope.analyze(Far(), x, lambda y: y[:, -1].sum()).models[0]
    assert found.series.values["log10_influence"][11] == pytest.approx(11 * torch.tensor(0.05).log10().item())


def test_what_cancels_agrees_by_the_size_of_its_terms() -> None:
    weight = nn.Parameter(torch.tensor([1e3, -1e3], dtype=torch.float64))
    own = (weight * torch.ones(1, 2, dtype=torch.float64)).sum(-1)
    for off, same in ((1e-13, True), (1e-5, False)):
        among = torch.tensor([off, 5.0], dtype=torch.float64)
        assert not rows_agree(among, own, 0, 2)
        assert rows_agree(among, own, 0, 2, (), (weight,)) is same

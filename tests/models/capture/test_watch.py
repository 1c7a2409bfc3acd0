"""Watching a module leaves no trace in it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gradscope.errors import UsageError
from gradscope.models.fused_recurrence import run_opened
from gradscope.models.whole_module import WholeModule


class Late(nn.Module):
    """A recurrence that fails after so many calls."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.cell, self.left = nn.GRUCell(2, 3), calls

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 3)
        for step in x.unbind(1):
            self.left -= 1
            if not self.left:
                raise RuntimeError("no more")
            h = self.cell(step, h)
        return h


@pytest.mark.parametrize("calls", [3, 8])
def test_hooks_are_gone_after_an_exception_in_either_run(calls: int) -> None:
    module = Late(calls).eval()
    with pytest.raises(UsageError, match="RuntimeError: no more"):
        run_opened(WholeModule("late", module, 2, kind="module"), torch.zeros(1, 5, 2))
    assert not any(part._forward_hooks for part in module.modules())
    assert not any(part._forward_hooks_with_kwargs for part in module.modules())


def test_the_input_is_not_written_into() -> None:
    class Writer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.RNN(2, 3, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x[:, 1] = 7
            return self.rnn(x)[0]

    x = torch.zeros(1, 5, 2)
    seen = run_opened(WholeModule("writer", Writer().eval(), 2, kind="module"), x)
    assert not x.any()
    assert float(seen.recurrences[0].x[1].detach().mean()) == 7
    (gradient,) = torch.autograd.grad(seen.recurrences[0].x.sum(), seen.given)
    assert gradient[0, :, 0].tolist() == [1, 0, 1, 1, 1]


def test_only_what_has_a_gradient_is_followed() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.after = nn.GRUCell(2, 2), nn.GRU(2, 3, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                h = torch.stack([self.before(step) for step in x.unbind(1)], 1)
            return self.after(x + h)[0]

    seen = run_opened(WholeModule("frozen", Frozen().eval(), 2, kind="module"), torch.zeros(2, 4, 2))
    assert [one.name for one in seen.recurrences] == ["after"]

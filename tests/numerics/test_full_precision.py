"""float32 means float32 while something is analysed, and what was set comes back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope.errors import UsageError


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True


noted: set[tuple[str, bool]] = set()


class Noting(nn.Module):
    """A recurrent module that notes how precise its products are to be."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(3, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        noted.add((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
        return self.rnn(x)[0]


@pytest.mark.parametrize("asked", ["highest", "high", "medium"])
def test_products_are_not_rounded_to_fewer_digits(asked: str) -> None:
    torch.set_float32_matmul_precision(asked)
    noted.clear()
    gradscope.analyze(Noting(), length=10, batch=2, dtype="float32")
    assert noted == {("highest", False)}
    assert torch.get_float32_matmul_precision() == asked
    assert torch.backends.cudnn.allow_tf32


def test_what_was_set_comes_back_after_an_error() -> None:
    torch.set_float32_matmul_precision("medium")

    class Breaking(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("broken")

    with pytest.raises(UsageError):
        gradscope.analyze(Breaking(), length=10, batch=2)
    assert torch.get_float32_matmul_precision() == "medium"

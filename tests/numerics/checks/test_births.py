"""NaN and Inf are traced to the submodule, the step and the value they are born as."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gradscope.models.direct import Direct
from gradscope.models.family import family_model
from gradscope.numerics.analysis import Analysis, Run
from gradscope.records import NonFinite, RunSpec


def born(model: Direct, x: Tensor) -> NonFinite | None:
    return Analysis((Run(model, x, lambda y: y[:, -1].sum()),), RunSpec(dtype=str(x.dtype)[6:])).non_finite


def built(word: str, dtype: torch.dtype = torch.float64) -> Direct:
    family, _, options = word.partition(":")
    given = dict(option.split("=") for option in options.split(",")) if options else {}
    model = family_model(family, {"hidden": "8", **given}, word, {}).build(input_size=3, seed=0, dtype=dtype)
    assert isinstance(model, Direct)
    return model


def sequence(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, 9, 3, dtype=dtype, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("word", ["attention", "transformer:layers=2"])
def test_a_finite_forward_pass_has_none(word: str) -> None:
    assert born(built(word), sequence()) is None


def test_an_overflow_in_a_block_is_named_by_block_and_step() -> None:
    model, x = built("transformer:layers=2", torch.float32), sequence(torch.float32)
    with torch.no_grad():
        model.module.blocks[1].linear1.weight.fill_(3e38)
        # Only where the normed input of step 6 is not zero: the steps before it are.
        model.module.blocks[1].norm2.weight.zero_()
    found = born(model, x)
    assert found is None
    with torch.no_grad():
        model.module.blocks[1].norm2.weight.fill_(1.0)
    found = born(model, x)
    assert (found.layer, found.where, found.step) == ("blocks.1.linear1", "matmul", 1)
    assert found.value in ("inf", "-inf", "nan")


class Logarithm(nn.Module):
    """NaN wherever its input is negative."""

    def forward(self, x: Tensor) -> Tensor:
        return x.log()


class Spreading(nn.Module):
    """What one step is wrong in, the mean over steps hands to all."""

    def __init__(self) -> None:
        super().__init__()
        self.front, self.inner, self.mean = nn.Identity(), nn.Sequential(nn.Identity(), Logarithm()), Mean()

    def forward(self, x: Tensor) -> Tensor:
        return self.mean(self.inner(self.front(x)))


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + x.mean(1, keepdim=True)


def test_what_spreads_it_over_all_steps_is_not_blamed() -> None:
    x = sequence().abs()
    x[1, 4] = -1.0
    found = born(Direct("spreading", Spreading(), 3, kind="module"), x)
    assert found == NonFinite(5, "inner.1", "log", "nan", "arithmetic")


class Reset(nn.Module):
    """A GRU behind a layer that divides by zero at one step."""

    def __init__(self) -> None:
        super().__init__()
        self.front, self.rnn = nn.Linear(3, 3), nn.GRU(3, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.front(x)
        return self.rnn(torch.where(torch.arange(x.shape[1])[:, None] == 6, x / 0, x))[0]


def test_inside_a_recurrence_it_is_layer_and_gate() -> None:
    torch.manual_seed(0)
    found = born(Direct("reset", Reset().double(), 3, kind="module"), sequence())
    assert (found.layer, found.where, found.step) == ("rnn.l0", "gate.reset", 7)


def test_weights_that_are_not_finite_are_named_as_weights() -> None:
    model = built("transformer:layers=2")
    with torch.no_grad():
        model.module.blocks[0].linear2.bias[3] = torch.nan
    assert born(model, sequence()) == NonFinite(0, "blocks.0.linear2.bias", "weights", "nan")

"""NaN and Inf are traced to the submodule, the step and the value they are born as."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope.models.family import family_model
from gradscope.models.whole_module import WholeModule
from gradscope.numerics.analysis import Analysis, Run
from gradscope.records import NonFinite, RunSpec


def born(model: WholeModule, x: Tensor) -> NonFinite | None:
    return Analysis((Run(model, x, lambda y: y[:, -1].sum()),), RunSpec(dtype=str(x.dtype)[6:])).non_finite


def built(word: str, dtype: torch.dtype = torch.float64) -> WholeModule:
    family, _, options = word.partition(":")
    given = dict(option.split("=") for option in options.split(",")) if options else {}
    model = family_model(family, {"hidden": "8", **given}, word, {}).build(input_size=3, seed=0, dtype=dtype)
    assert isinstance(model, WholeModule)
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
    found = born(WholeModule("spreading", Spreading(), 3, kind="module"), x)
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
    found = born(WholeModule("reset", Reset().double(), 3, kind="module"), sequence())
    assert (found.layer, found.where, found.step) == ("rnn.l0", "gate.reset", 7)


def test_weights_that_are_not_finite_are_named_as_weights() -> None:
    model = built("transformer:layers=2")
    with torch.no_grad():
        model.module.blocks[0].linear2.bias[3] = torch.nan
    assert born(model, sequence()) == NonFinite(0, "blocks.0.linear2.bias", "weights", "nan")


MASKED = torch.tensor([False, True, False, False])
NO_CLASS = torch.zeros(4).masked_fill(MASKED, -torch.inf)
SENTINELS = {
    "a mask": lambda y: y.masked_fill(MASKED, -torch.inf),
    "an added mask": lambda y: y + NO_CLASS,
    "an early step": lambda y: torch.cat([torch.full_like(y[:, :1], torch.nan), y[:, 1:]], 1),
}


class Guarded(nn.Module):
    """Scores of four classes, some of which are out of the question."""

    def __init__(self, guard: str, written: bool) -> None:
        super().__init__()
        self.guard, self.written = SENTINELS[guard], written
        self.rnn, self.cell, self.head = nn.GRU(3, 6, batch_first=True), nn.GRUCell(3, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        if not self.written:
            return self.guard(self.head(self.rnn(x)[0]))
        h, out = x.new_zeros(len(x), 6), []
        for step in x.unbind(1):
            h = torch.tanh(self.cell(step, h) + h)
            out.append(self.head(h))
        return self.guard(torch.stack(out, 1))


def likelihood(y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(y[:, -1], torch.zeros(len(y), dtype=torch.long), reduction="sum")


@pytest.mark.parametrize("guard", SENTINELS)
@pytest.mark.parametrize("written", [False, True])
def test_what_neither_the_loss_nor_a_gradient_hears_of_is_not_called_non_finite(guard: str, written: bool) -> None:
    torch.manual_seed(0)
    net, x = Guarded(guard, written).double(), sequence()
    model = gradscope.analyze(net, x, loss=likelihood).models[0]
    leaf = x.clone().requires_grad_()
    (own,) = torch.autograd.grad(likelihood(net(leaf)), leaf)
    profile = own.norm(dim=-1).log10().mean(0).flip(0)
    assert model.summary.non_finite is None
    assert model.series.values["log10_influence"] == pytest.approx(profile.tolist(), abs=1e-9)
    assert model.loaded.equality_check.passed
    assert model.summary.rate is not None


def test_without_a_loss_of_its_own_a_mask_is_left_out_and_nan_is_not() -> None:
    found = []
    for guard in SENTINELS:
        torch.manual_seed(0)
        found.append(gradscope.analyze(Guarded(guard, False), sequence()).models[0])
    masked, added, early = found
    assert masked.summary.non_finite is added.summary.non_finite is None
    assert added.series.values["log10_influence"] == pytest.approx(masked.series.values["log10_influence"])
    assert (early.status, early.summary.non_finite.step, early.summary.non_finite.value) == ("non-finite", 1, "nan")


@pytest.mark.parametrize("loss", [lambda y: y[:, -1].sum(), lambda y: (y[:, -1] * y[:, -1].softmax(-1)).sum()])
def test_a_sentinel_that_the_loss_does_read_is_non_finite(loss: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model = gradscope.analyze(Guarded("a mask", False), sequence(), loss=loss).models[0]
    assert (model.status, model.summary.non_finite.value) == ("non-finite", "-inf")

"""The growth of training time: its exponent from given seconds, and the shape of what is measured."""

from __future__ import annotations

import gc
import math

import pytest
import torch
from torch import nn

from gradscope.models.family import Model, family_model
from gradscope.models.stack import Recurrent
from gradscope.models.user_step import CustomCell
from gradscope.models.whole_module import WholeModule
from gradscope.numerics.costs import growth_exponent, training_step_growth


def make(family: str, inputs: int = 2) -> Model:
    settled = family_model(family, {"hidden": "4"}, family, {})
    return settled.build(input_size=inputs, seed=0, dtype=torch.float64)


@pytest.mark.parametrize(
    ("seconds", "expected", "spread"),
    [
        ([1.0, 2.0, 4.0], 1.0, 0.0),
        ([0.1, 0.4, 1.6], 2.0, 0.0),
        ([3.0, 3.0, 3.0], 0.0, 0.0),
        # Slopes 1 and 1.2: between them lies 1.1, and each is 0.1 away.
        ([1.0, 2.0, 2.0 * 2**1.2], 1.1, 0.1),
        # What attention does where its linear part gives way to the quadratic one.
        ([1.0, 2.0**1.4, 2.0**3.3], 1.65, 0.25),
    ],
)
def test_three_points_give_the_slope_and_how_far_its_halves_lie_from_it(
    seconds: list[float], expected: float, spread: float
) -> None:
    assert growth_exponent([100, 200, 400], seconds) == pytest.approx((expected, spread), abs=1e-12)


def test_rounds_that_disagree_widen_the_spread() -> None:
    rounds = [[1.0, 2.0, 4.0 * 2**e] for e in (-0.4, 0.0, 0.4)]
    # A round's slope moves by half of what its last point does: -0.2, 0, 0.2, of deviation 0.2 over sqrt(3).
    assert growth_exponent([100, 200, 400], [1.0, 2.0, 4.0], rounds) == pytest.approx((1.0, 0.2 / 3**0.5), abs=1e-12)


@pytest.mark.parametrize(
    ("seconds", "spread"),
    [
        ([1.0, 2.0, 2.0 * 2**2.2], 0.6),  # slopes 1 and 2.2: it could be linear or quadratic
        ([1.0, 8.0, 8.0], 1.5),
        ([0.0, 1.0, 2.0], None),
        ([1.0, math.nan, 4.0], None),
        ([1.0, 2.0, math.inf], None),
    ],
)
def test_points_that_do_not_determine_a_line_give_none(seconds: list[float], spread: float | None) -> None:
    assert growth_exponent([100, 200, 400], seconds) == (None, pytest.approx(spread, abs=1e-12))
    assert growth_exponent([100, 100, 200], [1.0, 1.0, 2.0]) == (None, None)


@pytest.mark.parametrize("family", ["rnn", "lstm", "attention", "transformer"])
def test_what_is_measured(family: str) -> None:
    model = make(family)
    before = {key: (value.clone(), value.requires_grad) for key, value in model.parameters().items()}
    found = training_step_growth(model, 5, 2, seconds=0.2)
    assert list(found) == ["length", "seconds", "exponent", "spread"]
    assert found["length"] == [5, 10, 20]
    assert len(found["seconds"]) == 3
    assert all(0 < value < 5 for value in found["seconds"])
    curved = growth_exponent(found["length"], found["seconds"])[1]
    assert found["spread"] >= curved
    assert (found["exponent"] is None) == (found["spread"] >= 0.5)
    for key, (value, requires_grad) in before.items():
        after = model.parameters()[key]
        assert torch.equal(after, value)
        assert after.requires_grad == requires_grad
        assert after.grad is None


def test_lengths_shrink_to_the_time_there_is() -> None:
    assert training_step_growth(make("lstm"), 4000, 2, seconds=0.0)["length"] == [16, 32, 64]


def test_models_without_input_or_weights_are_timed_too() -> None:
    assert training_step_growth(make("rnn", inputs=0), 3, 2, seconds=0.0)["length"] == [3, 6, 12]
    cell = CustomCell("cell", lambda x, s: s.sin(), torch.zeros(2, dtype=torch.float64), 0)
    assert training_step_growth(Recurrent("cell", [cell]), 3, 2, seconds=0.0)["length"] == [3, 6, 12]
    module = WholeModule("module", nn.Tanh(), 2, kind="module")
    assert training_step_growth(module, 3, 2, seconds=0.0)["length"] == [3, 6, 12]


class OneLength(nn.Module):
    """Made for five steps, as modules with learned positions are."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(5, 2, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + self.positions).tanh()


def test_a_module_for_one_length_only_has_no_growth_and_says_why() -> None:
    found = training_step_growth(WholeModule("module", OneLength(), 2, kind="module"), 5, 2)
    assert (found["length"], found["seconds"], found["exponent"]) == ([], [], None)
    assert found["reason"].startswith("the module does not run at other lengths: UsageError: module fails on x (2, 10")


def test_timing_leaves_garbage_collection_on() -> None:
    training_step_growth(make("rnn"), 2, 1, seconds=0.0)
    assert gc.isenabled()

"""The state after every step is made at the same places in the code: after the last, before a restart, under a mask.

Modules of the oracle's grammar by name, each with every number of its report held against plain autograd.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import gradscope

ROOT = Path(__file__).parents[2]
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("a source distribution has no benchmarks", allow_module_level=True)
sys.path.append(str(ROOT))

from benchmarks.oracle.compare import differences  # noqa: E402
from benchmarks.oracle.modules import Recipe  # noqa: E402

CASES = {
    "the last state of two layers, of which the loss reads one": Recipe(
        seed=3, cell="leaky", layers=2, between="residual", output="value", head=True, features=3, hidden=4, steps=7
    ),
    "three layers, and a loss that reads a step in the middle": Recipe(
        seed=33, cell="linear", layers=3, between="norm", output="time first", loop="unbind", reads="5", needs_lag=4
    ),
    "a last c that nobody reads": Recipe(
        seed=40, cell="lstm", layers=2, between="linear", begin="learned", output="last", gain=0.3, hidden=2, steps=5
    ),
    "restarts of which the loss hears the last only": Recipe(
        seed=15, cell="leaky", reset=3, begin="shared", output="last", head=True, features=3, steps=5, needs_lag=4
    ),
    "restarts before every other step": Recipe(
        seed=109, cell="diagonal", reset=2, begin="learned", output="scalar", head=True, features=3, steps=12
    ),
    "restarts of three layers with learned states": Recipe(
        seed=420, layers=3, reset=2, begin="learned", output="scalar", head=True, loop="unbind", hidden=1, steps=9
    ),
    "restarts of torch's LSTMCell": Recipe(
        seed=142, cell="lstm", reset=4, begin="learned", output="value", loop="unbind", gain=0.7, features=1, steps=10
    ),
    "restarts of a stack of torch's GRUCells": Recipe(
        seed=205, cell="gru", layers=2, between="norm", reset=3, output="scalar", loop="iterate", features=3, steps=12
    ),
    "a mask on both parts of a state that begins as a number": Recipe(
        seed=61, cell="lstm", mask=True, begin="number", output="value", head=True, features=3, hidden=1, steps=10
    ),
    "a mask on a stack of torch's LSTMCells": Recipe(
        seed=446, cell="lstm", layers=2, between="norm", mask=True, output="last", gain=1.5, features=1, hidden=4
    ),
    "a detach in three layers": Recipe(
        seed=87,
        cell="linear",
        layers=3,
        between="linear",
        detach=4,
        begin="number",
        loop="unbind",
        hidden=1,
        needs_lag=2,
    ),
    "a learned first state": Recipe(seed=115, cell="diagonal", begin="learned", output="pair", hidden=2, steps=6),
}


@pytest.mark.parametrize("name", CASES)
def test_every_number_is_that_of_plain_autograd(name: str) -> None:
    assert differences(CASES[name]) == []


class Once(nn.Module):
    """A state that is made anew once, at steps that no rhythm tells of."""

    def __init__(self, *anew: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.anew, self.cell = anew, nn.GRUCell(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 3)
        for t in range(x.shape[1]):
            if t + 1 in self.anew:
                h = x.new_zeros(len(x), 3)
            h = self.cell(x[:, t], h)
        return h


@pytest.mark.parametrize("anew", [(4,), (3, 4, 7)])
def test_steps_that_read_nothing_of_the_old_state_are_told(anew: tuple[int, ...]) -> None:
    x = torch.randn(2, 10, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    model = gradscope.analyze(Once(*anew).double(), x).models[0]
    norms = model.series.values["log10_jacobian_norm"]
    assert [t for t, norm in enumerate(norms, 1) if norm == float("-inf")] == list(anew)
    assert model.summary.made_anew == anew
    assert model.status == "degenerate"
    said = next(verdict.message for verdict in model.verdicts if verdict.code == "GS401")
    assert f"further back than lag {10 - anew[-1]}" in said
    assert "every" not in said


def test_a_state_that_goes_on_is_not_made_anew() -> None:
    x = torch.randn(2, 10, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert not gradscope.analyze(Once().double(), x).models[0].summary.made_anew

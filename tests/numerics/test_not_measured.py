"""What cannot be measured is said with its reason, whichever piece is missing; nothing of it ends the run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope.numerics.loop_trace import LoopTrace
from gradscope.numerics.module_trace import ModuleTrace
from gradscope.numerics.own_traces import RecurrentTrace
from gradscope.numerics.trace import Trace, Unavailable
from gradscope.records import ModelResult

PIECES = sorted(
    name for name in vars(Trace) if not name.startswith("_") and name not in ("length", "sequences", "model")
)
X = torch.randn(3, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


REASONS = {"the moon is in the wrong quarter"}
REPLACED = ("kind", "shape", "size", "carried")
"""Words and counts of the heading, which have a stand-in."""
OF_SOME = ("recurrence", "orders", "layer_adjoints")
"""Asked of some models only."""


class Loop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w, self.u, self.head = nn.Linear(5, 5), nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h, outputs = x.new_zeros(len(x), 5), []
        for step in x.unbind(1):
            h = torch.tanh(self.w(h) + self.u(step))
            outputs.append(self.head(h))
        return torch.stack(outputs, 1)


class Fused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(4, 3, 2, batch_first=True), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])


def missing(*_: Any, **__: Any) -> Any:
    raise Unavailable("the moon is in the wrong quarter")


def measured(model: nn.Module) -> ModelResult:
    torch.manual_seed(1)
    return gradscope.analyze(model.double(), X, seeds=1).models[0]


def test_the_list_of_pieces_is_whole() -> None:
    assert {"non_finite", "equality", "layers", "chain", "anchors", "input_gradient", "ends", "size"} <= set(PIECES)


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize(
    ("make", "trace"), [(Loop, LoopTrace), (Fused, ModuleTrace), (lambda: nn.LSTM(4, 3, 2), RecurrentTrace)]
)
def test_a_piece_that_cannot_be_had(make: Any, trace: type, piece: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measured(make())
    method = callable(next(vars(kind).get(piece) for kind in trace.__mro__ if piece in vars(kind) or kind is object))
    # What is remembered on the object itself is set, and never asked for.
    monkeypatch.setattr(trace, piece, missing if method else property(missing, lambda self, value: None), raising=False)
    found = measured(make())
    assert set(found.skipped) >= set(whole.skipped)
    gone = set(found.skipped) - set(whole.skipped)
    assert {found.skipped[name] for name in gone} <= REASONS
    assert gone or piece in (*REPLACED, *OF_SOME)

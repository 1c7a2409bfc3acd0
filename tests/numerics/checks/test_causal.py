"""Which models read the future, by their gradients and by where their attention looks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope.models.token_models import TokenIds
from gradscope.models.whole_module import WholeModule
from gradscope.numerics.module_trace import ModuleTrace
from gradscope.numerics.pick_trace import look_ahead
from gradscope.renderers import report_wording

STEPS = 10


class Convolution(nn.Module):
    """A causal convolution through Fourier transforms: exact zeros become rounding noise."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.linspace(1, 0.1, 3 * STEPS).reshape(STEPS, 3))

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(x, 2 * STEPS, 1) * torch.fft.rfft(self.kernel, 2 * STEPS, 0)
        return torch.fft.irfft(spectrum, 2 * STEPS, 1)[:, : x.shape[1]]


class Shifted(nn.Module):
    """y_t = x_{t+1}."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, 1:], x[:, :1]], 1)


class Encoder(nn.Module):
    """A transformer of torch.nn, masked or not, whole or pooled over its steps."""

    def __init__(self, masked: bool, pooled: bool) -> None:
        super().__init__()
        self.layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True), 2)
        self.masked, self.pooled = masked, pooled

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1]).to(x) if self.masked else None
        y = self.layers(x, mask=mask, is_causal=self.masked)
        return y.mean(1) if self.pooled else y


class Recurrent(nn.Module):
    """An LSTM, its outputs or the last state alone."""

    def __init__(self, bidirectional: bool, last: bool) -> None:
        super().__init__()
        self.rnn, self.last = nn.LSTM(3, 4, batch_first=True, bidirectional=bidirectional), last

    def forward(self, x: Tensor) -> Tensor:
        y, (h, _) = self.rnn(x)
        return h[-1] if self.last else y


class Several(nn.Module):
    """Returns more than it is judged by, whole numbers among it."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return x.cumsum(1), x.argmax(-1), x.flip(1)


class Reversed(nn.Module):
    """A recurrence whose outputs are returned newest first."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn = nn.GRU(3, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0].flip(1)


AHEAD = "reads the future: output 5 depends on"
CASES: dict[str, tuple[nn.Module, int, str]] = {
    "linear": (nn.Linear(3, 2), 3, ""),
    "fourier": (Convolution(), 3, ""),
    "shifted": (Shifted(), 3, f"{AHEAD} input 6"),
    "several": (Several(), 3, ""),
    "masked": (Encoder(True, False), 4, ""),
    "reversed": (Reversed(), 3, f"{AHEAD} input 6, and output 10 on none after input 1 (are they in reverse order?)"),
    "encoder": (Encoder(False, False), 4, f"{AHEAD} inputs 6 to 10"),
    "pooled encoder": (Encoder(False, True), 4, "reads the future: its attention looks ahead"),
    "pooled masked": (Encoder(True, True), 4, ""),
    "lstm": (Recurrent(False, False), 3, ""),
    "last state": (Recurrent(False, True), 3, ""),
    "bidirectional": (Recurrent(True, False), 3, "reads the future: rnn is bidirectional"),
    "bidirectional last": (Recurrent(True, True), 3, "reads the future: rnn is bidirectional"),
}


def trace_of(module: nn.Module, size: int) -> ModuleTrace:
    from gradscope.models.attention_weights import reader

    model = WholeModule("own", module.double().eval(), size, kind="module", time_first=None)
    model.weights = reader(model)
    x = torch.randn(2, STEPS, size, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return ModuleTrace(model, x)


@pytest.mark.parametrize("name", CASES)
def test_what_reads_the_future_says_so(name: str) -> None:
    module, size, expected = CASES[name]
    assert look_ahead(trace_of(module, size)) == expected


def test_ids_without_an_embedding_cannot_be_told() -> None:
    class AsNumbers(nn.Module):
        def forward(self, ids: Tensor) -> Tensor:
            return ids[..., None].double().flip(1)

    model = WholeModule("own", AsNumbers(), 5, kind="module", ids=TokenIds(5))
    assert look_ahead(ModuleTrace(model, torch.zeros(1, STEPS, dtype=torch.int64))) == ""


def test_without_direction_there_is_no_reach_and_no_rule_for_it() -> None:
    torch.manual_seed(0)
    found: Any = gradscope.analyze(Encoder(False, False), torch.randn(2, STEPS, 4)).models[0]
    assert found.summary.reach is None
    assert found.summary.carried_floats is None
    assert found.skipped["reach"] == f"{AHEAD} inputs 6 to 10"
    assert f"{AHEAD} inputs 6 to 10, so it has no reach" in found.notes
    assert next(v.status for v in found.verdicts if v.code == "GS104") == "skip"
    assert found.status == "healthy"


@pytest.mark.parametrize("loss", ["final", "every", lambda y: y[:, 0].sum()])
def test_outputs_in_reverse_order_are_said_as_that_and_not_called_vanishing(loss: Any) -> None:
    found = gradscope.analyze(Reversed(), torch.randn(2, STEPS, 3), loss=loss).models[0]
    assert found.status == "inconclusive"
    assert "in reverse order" in report_wording.sentences(found)[0]

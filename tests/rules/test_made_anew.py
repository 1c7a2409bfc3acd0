"""States that are made anew inside a loop, and single lags of exact zero: what they are called, and what helps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope.records import ModelResult
from gradscope.renderers import report_wording

EVERY, STEPS = 5, 23


class Loop(nn.Module):
    """An LSTMCell over steps that begins anew every few of them; all outputs are returned."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.cell = kind, nn.LSTMCell(3, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = c = x.new_zeros(len(x), 6)
        out = []
        for t in range(x.shape[1]):
            anew = t > 0 and t % EVERY == 0
            if anew and self.kind == "fresh":
                h = c = x.new_zeros(len(x), 6)
            keep = float(not anew) if self.kind == "multiplied" else 1.0
            if anew and self.kind == "detached":
                h, c = h.detach(), c.detach()
            h, c = self.cell(x[:, t], (h * keep, c * keep))
            out.append(h)
        return torch.stack(out, 1)


class Hole(nn.Module):
    """An LSTM with open gates that does not read one step."""

    def __init__(self, lag: int | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lag, self.rnn = lag, nn.LSTM(3, 6, batch_first=True)
        nn.init.constant_(self.rnn.bias_hh_l0[6:12], 4.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        keep = x.new_ones(x.shape[1])
        if self.lag is not None:
            keep[-1 - self.lag] = 0.0
        return self.rnn(x * keep[None, :, None])[0]


def data() -> torch.Tensor:
    return torch.randn(8, STEPS, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", ["fresh", "multiplied"])
@pytest.mark.parametrize("needs_lag", [None, 9])
def test_a_state_that_is_made_anew_is_said_as_that(kind, needs_lag):
    x = data().requires_grad_()
    module = Loop(kind).double()
    module(x)[:, -1].sum().backward()
    heard = x.grad.abs().sum((0, 2)).flip(0)
    last = int((heard > 0).nonzero().max())
    assert last == 2, "by plain autograd: step 21 begins anew, and 23 - 21 = 2"
    result = gradscope.analyze(module, data(), needs_lag=needs_lag).models[0]
    assert (result.status, report_wording.deciding(result).code) == ("degenerate", "GS401")
    said = report_wording.sentences(result)[0]
    assert "made anew at steps 6, 11, ..., 21 (every 5 steps)" in said
    assert "further back than lag 2" in said
    first = report_wording.advice(result)[0]
    assert "inside the loop" in first
    assert not any("bias" in tip for tip in report_wording.advice(result))


def test_a_detach_is_still_called_a_cut():
    result = gradscope.analyze(Loop("detached").double(), data(), needs_lag=9).models[0]
    assert (result.status, result.summary.cut) == ("degenerate", 21)
    assert not any("bias" in tip for tip in report_wording.advice(result))


def test_what_came_before_the_last_beginning_and_never_enters_is_said_too():
    class Last(Loop):
        def forward(self, x):
            return super().forward(x)[:, -1]

    result = gradscope.analyze(Last("fresh").double(), data(), needs_lag=9).models[0]
    assert (result.status, report_wording.deciding(result).code) == ("degenerate", "GS401")
    assert "further back than lag 2" in report_wording.sentences(result)[0]


@pytest.mark.parametrize(("lag", "needs_lag"), [(5, None), (5, 15), (None, None), (STEPS - 1, None)])
def test_one_lag_of_exact_zero_among_healthy_ones_is_not_vanishing(lag, needs_lag):
    result = gradscope.analyze(Hole(lag).double(), data(), needs_lag=needs_lag).models[0]
    found = next(verdict for verdict in result.verdicts if verdict.code == "GS102")
    assert result.status == "healthy"
    assert found.status == ("warn" if lag is not None else "pass")
    assert lag is None or f"the first at lag {lag} (step {STEPS - lag})" in found.message


def test_a_needed_lag_of_which_nothing_arrives_fails():
    result = gradscope.analyze(Hole(15).double(), data(), needs_lag=15).models[0]
    assert result.status == "vanishing"
    assert {verdict.status for verdict in result.verdicts if verdict.code in ("GS102", "GS104")} == {"fail"}


class Leftover(nn.Module):
    """A cell whose state is a fresh one every ten steps, and an answer at the last."""

    def __init__(self, *, like: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.like, self.cell, self.head = like, nn.GRUCell(3, 6), nn.Linear(6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x.new_zeros(len(x), 6)
        for t in range(x.shape[1]):
            fresh = torch.zeros_like(h) if self.like else x.new_zeros(len(x), 6)
            h = self.cell(x[:, t], fresh if t % 10 == 0 else h)
        return self.head(h)


@pytest.mark.parametrize("like", [False, True])
@pytest.mark.parametrize("steps", [13, 40])
def test_a_leftover_reset_is_said_however_the_fresh_state_is_made(steps, like):
    found = gradscope.analyze(Leftover(like=like), torch.randn(2, steps, 3)).models[0]
    said = next(verdict for verdict in found.verdicts if verdict.code == "GS401")
    assert (found.status, said.status) == ("degenerate", "warn" if said.severity == "warning" else "fail")
    anew = (steps - 1) // 10 * 10 + 1
    told = "step 11" if steps == 13 else "steps 11, 21, 31 (every 10 steps)"
    assert f"made anew at {told}:" in said.message
    assert f"lag {steps - anew} is learned" in said.message


@pytest.mark.parametrize("like", [False, True])
def test_a_state_that_begins_late_is_named(like):
    found = gradscope.analyze(Leftover(like=like), torch.randn(2, 40, 3)).models[0]
    said = next(note for note in found.notes if note.startswith("state found in the computation"))
    assert said.startswith("state found in the computation: h (6, by ")


def test_what_is_exactly_zero_is_not_said_to_be_lost_in_float32(tmp_path):
    model = Leftover()
    with gradscope.Monitor(model, needs_lag=20, log=tmp_path / "flow.jsonl") as flow:
        loss = model(torch.randn(2, 40, 3)).square().sum()
        loss.backward()
        flow.step(loss)
    points = flow.trajectory.points
    assert any(point.log10_influence and -math.inf in point.log10_influence for point in points)
    assert all(point.below_float32 is None for point in points)


def test_more_steps_of_training_are_no_advice_where_no_gradient_arrives():
    found = gradscope.analyze(Leftover(), task="recall", needs_lag=12, probe=True, train_steps=50).models[0]
    said = {verdict.code: verdict for verdict in found.verdicts}
    assert said["GS401"].status == "fail"
    assert "--train-steps" not in said["GS105"].advice


class Dilated(nn.Module):
    """Every state is made of the one five steps before: five interleaved chains, none of which begins anew."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        states: list[Tensor] = []
        for t in range(x.shape[1]):
            states.append(self.cell(x[:, t], states[t - 5] if t >= 5 else x.new_zeros(len(x), 4)))
        return torch.stack(states, 1)


@pytest.mark.parametrize("steps", [20, 21])
def test_a_dilated_recurrence_begins_nowhere_anew(steps: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, steps, 3, dtype=torch.float64)
    found = {v.code: v.status for v in gradscope.analyze(Dilated().double(), x, needs_lag=10).models[0].verdicts}
    assert found["GS401"] == "pass"


class Growing(nn.Module):
    """H_t = 1.2 m_t h_{t-1} + x_t: by hand I(k) = 1.2^k, and exactly 0 further back than the newest m_t = 0."""

    def __init__(self, how: str, *steps: int) -> None:
        super().__init__()
        self.how, self.steps = how, steps
        self.gate = nn.Linear(1, 1)
        nn.init.zeros_(self.gate.weight)

    def forward(self, x: Tensor) -> Tensor:
        h, ys = x.new_zeros(len(x), 1), []
        for t in range(1, x.shape[1] + 1):
            shut = t in self.steps
            if self.how == "number":
                h = h * float(not shut)
            elif self.how == "tensor":
                h = h * torch.full((1,), float(not shut), dtype=x.dtype)
            elif self.how == "where":
                h = torch.where(torch.full((1,), shut), self.gate.bias * 0.5, h)
            elif self.how == "filled":
                h = h.masked_fill(torch.full((1,), shut), 0.0)
            elif self.how == "detached first":
                h = h.detach() * 0.0 if shut else h
            elif self.how == "gate" and shut:
                h = h * (self.gate(x[:, t - 1]) - self.gate.bias)
            elif self.how == "dead" and shut:
                h = (h - 100).relu()
            h = 1.2 * h + x[:, t - 1]
            ys.append(h)
        return torch.stack(ys, 1)


def grown(how: str, *steps: int, needs_lag: int | None = None) -> ModelResult:
    x = torch.randn(2, 12, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = gradscope.analyze(Growing(how, *steps).double(), x, lambda y: y[:, -1].sum(), needs_lag=needs_lag).models[0]
    by_hand = [k * math.log10(1.2) if 12 - k >= max(steps, default=0) else -math.inf for k in range(12)]
    assert list(found.series.values["log10_influence"]) == pytest.approx(by_hand)
    assert found.summary.rate == pytest.approx(math.log(1.2))
    return found


@pytest.mark.parametrize("how", ["number", "tensor", "where", "filled", "detached first"])
def test_a_state_multiplied_by_exactly_zero_begins_anew_and_its_growing_gradient_is_never_vanishing(how: str) -> None:
    found = grown(how, 2, 3, 7)
    assert (found.status, found.summary.made_anew, found.summary.zeroed) == ("degenerate", (2, 3, 7), (2, 3, 7))
    said = report_wording.sentences(found)[0]
    assert said.startswith("The state is made anew at steps 2, 3, 7: it is multiplied by exactly zero there.")
    assert "The gradient is exactly zero further back than lag 5" in said
    assert "multiplies the state by 0" in report_wording.advice(found)[0]


@pytest.mark.parametrize("how", ["gate", "dead"])
@pytest.mark.parametrize("needs_lag", [None, 10])
def test_what_units_and_weights_make_zero_is_no_reset_and_what_grows_up_to_it_does_not_vanish(
    how: str, needs_lag: int | None
) -> None:
    found = grown(how, 7, needs_lag=needs_lag)
    assert found.summary.zeroed is None
    assert found.status == "degenerate"
    assert (
        "of exactly zero" in report_wording.sentences(found)[0]
        or "made anew at step 7" in report_wording.sentences(found)[0]
    )


@pytest.mark.parametrize("how", ["number", "where"])
def test_a_reset_no_nearer_than_the_needed_lag_is_remarked_on_alone(how: str) -> None:
    said = {lag: grown(how, 7, needs_lag=lag) for lag in (4, 5, 6)}
    assert [found.status for found in said.values()] == ["healthy", "healthy", "degenerate"]
    verdicts = [next(v for v in found.verdicts if v.code == "GS401") for found in said.values()]
    assert [verdict.status for verdict in verdicts] == ["warn", "warn", "fail"]


class Sparse(nn.Module):
    """Every input but some is multiplied by zero; the state is kept."""

    def forward(self, x: Tensor) -> Tensor:
        kept = torch.zeros(x.shape[1], dtype=x.dtype)
        kept[::5] = 1.0
        h, ys = x.new_zeros(len(x), 1), []
        for t in range(x.shape[1]):
            h = 1.05 * h + kept[t] * x[:, t]
            ys.append(h)
        return torch.stack(ys, 1)


def test_most_lags_of_exact_zero_are_holes_where_the_oldest_is_heard() -> None:
    x = torch.randn(2, 16, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = gradscope.analyze(Sparse().double(), x, lambda y: y[:, -1].sum()).models[0]
    assert found.summary.zero_lags == (1, 12)
    said = next(v for v in found.verdicts if v.code == "GS102")
    assert (found.status, said.status) == ("healthy", "warn")
    assert "there is gradient again further back" in said.message


class Twice(nn.Module):
    """A cell that is detached before one step and made anew before another."""

    def __init__(self, cut: int, anew: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cut, self.anew, self.cell = cut, anew, nn.GRUCell(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 4)
        for t in range(1, x.shape[1] + 1):
            h = self.cell(x[:, t - 1], h.detach() if t == self.cut else h * float(t != self.anew))
        return h


@pytest.mark.parametrize(("cut", "anew", "said"), [(6, 10, "made anew at step 10"), (10, 6, "cut at step 10")])
def test_the_newest_of_a_cut_and_a_reset_is_told(cut: int, anew: int, said: str) -> None:
    x = torch.randn(2, 12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    near, far = (gradscope.analyze(Twice(cut, anew).double(), x, needs_lag=lag).models[0] for lag in (2, 4))
    verdicts = [next(v for v in found.verdicts if v.code == "GS401") for found in (near, far)]
    assert [verdict.status for verdict in verdicts] == ["warn", "fail"]
    assert all(said in verdict.message for verdict in verdicts)
    assert (near.status != "degenerate", far.status) == (True, "degenerate")
    assert said in report_wording.sentences(far)[0]


class Episodes(nn.Module):
    """A cell whose state is multiplied by zero where a sequence's own input says that an episode begins."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 4)
        for t in range(x.shape[1]):
            h = torch.tanh(self.cell(torch.cat((x[:, t], h * (x[:, t, :1] < 9).to(x)), -1)))
        return h


@pytest.mark.parametrize(
    ("begun", "by"), [(((4, 9), (7,), (3, 10)), 7), (((9,), (9,), (9,)), 9), (((9,), (), (9,)), None)]
)
def test_episodes_of_each_sequence_are_told_by_when_all_have_begun(
    begun: tuple[tuple[int, ...], ...], by: int | None
) -> None:
    x = torch.randn(3, 12, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for row, steps in zip(x, begun, strict=True):
        for step in steps:
            row[step - 1, 0] = 9.0
    module, leaf = Episodes().double(), x.clone().requires_grad_()
    module(leaf).sum().backward()
    heard = leaf.grad.abs().sum((0, 2)).nonzero()
    assert int(heard.min()) + 1 == (by or 1), "by plain autograd: the oldest step that any sequence hears of"
    found = gradscope.analyze(module, x).models[0]
    verdict = next(v for v in found.verdicts if v.code == "GS401")
    assert (found.summary.anew_by, verdict.status) == (by, "fail" if by else "pass")
    if by == 7:
        assert verdict.message.startswith("The state is made anew at step 7 or later, by sequence: it is multiplied by")
        assert "further back than lag 5" in verdict.message
    assert by is None or found.status == "degenerate"


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("dead", [(4, 9), (3, 6, 9)])
def test_relu_units_that_are_dead_at_even_distances_are_no_reset(dead: tuple[int, ...], wrapped: bool) -> None:
    layer = nn.RNN(2, 1, nonlinearity="relu", bias=False, batch_first=True).double()
    nn.init.ones_(layer.weight_hh_l0)
    nn.init.ones_(layer.weight_ih_l0)
    x = torch.ones(2, 12, 2, dtype=torch.float64)
    x[:, [step - 1 for step in dead]] = -100.0
    leaf = x.clone().requires_grad_()
    layer(leaf)[0][:, -1].sum().backward()
    assert int(leaf.grad.abs().sum((0, 2)).nonzero().min()) == dead[-1], "by plain autograd: the oldest that is heard"

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)[0]

    found = gradscope.analyze(Wrapped() if wrapped else layer, x, lambda y: y[:, -1].sum()).models[0]
    said = next(verdict for verdict in found.verdicts if verdict.code == "GS401")
    assert (said.status, found.summary.made_anew) == ("pass", ())
    assert [step for step, norm in enumerate(found.series.values["log10_jacobian_norm"], 1) if norm == -math.inf] == [
        *dead
    ]

"""Sequences of a padded batch end apart: each has its lags from the last step that is read of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from gradscope import analyze

REAL = torch.float64
LENGTHS = torch.tensor([14, 9, 5, 14])
LONGEST = 14


class Padded(nn.Module):
    """One answer for each sequence, from its last real step."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.how, self.rnn, self.head = how, nn.GRU(2, 6, batch_first=True), nn.Linear(6, 1)
        self.cell = nn.GRUCell(2, 6)
        with torch.no_grad():
            for own, other in zip(self.cell.parameters(), self.rnn.parameters(), strict=True):
                own.copy_(other)
        self.double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ends = LENGTHS[: len(x)]
        if self.how == "packed":
            packed = pack_padded_sequence(x, ends, batch_first=True, enforce_sorted=False)
            return self.head(self.rnn(packed)[1][0])
        if self.how == "read at its end":
            return self.head(self.rnn(x)[0][torch.arange(len(x)), ends - 1])
        h = x.new_zeros(len(x), 6)
        states = []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            states.append(h)
        return self.head(torch.stack(states, 1)[torch.arange(len(x)), ends - 1])


def loss(y: torch.Tensor) -> torch.Tensor:
    return y.square().sum()


def given() -> torch.Tensor:
    return torch.randn(4, LONGEST, 2, dtype=REAL, generator=torch.Generator().manual_seed(1))


def alone(model: Padded) -> list[list[float]]:
    """log10 I(k) of every sequence run by itself, without its padding."""
    found = []
    for x, length in zip(given(), LENGTHS.tolist(), strict=True):
        leaf = x[None, :length].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(model.head(model.rnn(leaf)[0][:, -1])), leaf)
        found.append(gradient[0].norm(dim=-1).log10().flip(0).tolist())
    return found


@pytest.mark.parametrize("how", ["packed", "read at its end", "a loop"])
def test_lags_count_from_the_last_step_read_of_each(how: str) -> None:
    model = Padded(how).eval()
    rows = alone(model)
    means = [sum(own) / len(own) for k in range(LONGEST) if (own := [row[k] for row in rows if k < len(row)])]
    found = analyze(model, given(), loss=loss, needs_lag=8).models[0]
    assert found.series.values["log10_influence"] == pytest.approx(means, abs=1e-8)
    assert found.summary.reach == max(k for k in range(1, LONGEST) if means[k] >= means[1] - 2)
    # The sequence of 5 steps has no lag 8: what arrives there is a matter of the others.
    long = [[10**value for value in row] for row in rows if len(row) > 8]
    mean = [sum(row[k] for row in long) / len(long) for k in range(9)]
    assert found.summary.gradient_share == pytest.approx(math.log10(mean[8] / sum(mean)), abs=1e-8)


@pytest.mark.parametrize("how", ["read at its end", "a loop"])
def test_products_end_where_the_chosen_sequence_does(how: str) -> None:
    model = Padded(how).eval()
    found = analyze(model, given(), loss=loss, item=2).models[0]
    short = analyze(Padded("read at its end").rnn, given()[2:3, :5], loss=lambda y: y[:, -1].sum()).models[0]
    assert found.summary.finite_time_exponents == pytest.approx(short.summary.finite_time_exponents, abs=1e-8)
    norms = found.series.values["log10_product_norm"]
    assert norms[:6] == pytest.approx(short.series.values["log10_product_norm"], abs=1e-8)
    assert norms[6:] == (None,) * 9


def test_one_step_read_of_all_is_the_anchor() -> None:
    class Middle(Padded):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.rnn(x)[0][:, 6])

    found = analyze(Middle("").eval(), given(), loss=loss).models[0]
    assert len(found.series.values["log10_influence"]) == 7
    assert found.summary.needed_lag == 6
    assert found.summary.reach is not None


class Everywhere(nn.Module):
    """The same head at every step: which of them are read is the loss's choice."""

    def __init__(self) -> None:
        super().__init__()
        self.whole = Padded("read at its end")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.whole.head(self.whole.rnn(x)[0])


def at_their_ends(y: torch.Tensor) -> torch.Tensor:
    return loss(y[torch.arange(len(y)), LENGTHS - 1])


@pytest.mark.parametrize("item", [0, 2])
def test_where_a_sequence_is_read_may_be_said_by_the_loss_or_the_module(item: int) -> None:
    by_module = analyze(Padded("read at its end"), given(), loss=loss, needs_lag=8, item=item).models[0]
    by_loss = analyze(Everywhere(), given(), loss=at_their_ends, needs_lag=8, item=item).models[0]
    one, other = by_loss.series.values, by_module.series.values
    for name in ("log10_influence", "log10_product_norm", "log10_grad_input", "log10_weight_share"):
        assert one[name] == pytest.approx(other[name], abs=1e-8), name
    assert by_loss.status == by_module.status
    for name in ("rate", "rate_ci", "reach", "coverage", "gradient_share", "directions", "finite_time_exponents"):
        assert getattr(by_loss.summary, name) == pytest.approx(getattr(by_module.summary, name), abs=1e-8), name
    assert by_loss.summary.spread == pytest.approx(by_module.summary.spread)
    read = Everywhere()(given()).detach()[torch.arange(4), LENGTHS - 1]
    assert by_loss.summary.output_scale == pytest.approx(float(read.square().mean().sqrt()))


@pytest.mark.parametrize("anchors", [1, 3])
def test_layers_of_torch_and_families_have_each_sequence_from_its_own_end(anchors: int) -> None:
    model = Padded("")
    leaf = given().requires_grad_()
    y = model.rnn(leaf)[0]
    read = torch.arange(LONGEST) < LENGTHS[:, None]
    steps = {1: (14,), 3: (8, 11, 14)}[anchors]
    logs = torch.full((len(steps), 4, LONGEST), math.nan, dtype=REAL)
    for place, step in enumerate(steps):
        ends = LENGTHS.clamp_max(step) - 1
        v = (2 * y * read[..., None]).detach()[torch.arange(4), ends]
        (gradient,) = torch.autograd.grad((y[torch.arange(4), ends] * v).sum(), leaf, retain_graph=True)
        for row, end in enumerate(ends.tolist()):
            logs[place, row, : end + 1] = gradient[row, : end + 1].norm(dim=-1).log10().flip(0)
    means = logs.nanmean(0).nanmean(0)
    found = analyze(model.rnn, given(), loss=lambda y: (y * read[..., None]).square().sum(), anchors=anchors).models[0]
    assert found.series.values["log10_influence"] == pytest.approx(means.tolist(), abs=1e-8)


def test_a_sequence_that_is_not_read_is_no_zero() -> None:
    weights = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=REAL)
    rnn, equal = Padded("").rnn, given()
    found = analyze(rnn, equal, loss=lambda y: (weights * y[:, -1].square().sum(-1)).sum()).models[0]
    others = analyze(rnn, equal[weights > 0], loss=lambda y: y[:, -1].square().sum()).models[0]
    assert found.series.values["log10_influence"] == pytest.approx(others.series.values["log10_influence"], abs=1e-8)
    for edge in ("low", "high"):
        rows = (getattr(one.bands["log10_influence"], edge) for one in (found, others))
        assert next(rows) == pytest.approx(next(rows), abs=1e-8)
    for name in ("rate", "rate_ci", "reach", "coverage", "gradient_share", "output_scale", "spread"):
        assert getattr(found.summary, name) == pytest.approx(getattr(others.summary, name), abs=1e-8), name


def test_the_least_influence_is_that_of_a_sequence_that_has_the_lag() -> None:
    rows = alone(Padded("read at its end"))
    found = analyze(Everywhere(), given(), loss=at_their_ends).models[0]
    least = [min(row[k] for row in rows if k < len(row)) for k in range(LONGEST)]
    assert found.bands["log10_influence"].low == pytest.approx(least, abs=1e-8)


class Shorter(nn.Module):
    """A GRU that walks fewer steps than it is given, as teacher forcing and padding to a fixed length do."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.rnn, self.head = nn.GRU(3, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.way == "packed":
            lengths = torch.tensor([12, 12, 5])
            return self.head(self.rnn(pack_padded_sequence(x, lengths, batch_first=True))[1][0])
        if self.way == "last":
            return self.head(self.rnn(x[:, :-2])[0][:, -1])
        if self.way == "cell":
            h = x.new_zeros(len(x), 5)
            for t in range(x.shape[1] - 2):
                h = self.rnn(x[:, t : t + 1], h[None])[1][0]
            return self.head(h)
        outputs = self.head(self.rnn(x[:, :-2])[0])
        return outputs.square().mean() if self.way == "own loss" else outputs


@pytest.mark.parametrize("way", ["packed", "last", "cell", "every"])
def test_lags_count_from_the_newest_step_that_is_walked(way: str) -> None:
    torch.manual_seed(0)
    module, x = Shorter(way).double(), torch.randn(3, 14, 3, dtype=torch.float64)
    found = analyze(module, x, loss=lambda y: y.sum()).models[0]
    leaf = x.clone().requires_grad_()
    y = module(leaf)
    (y[:, -1] if way == "every" else y).sum().backward()
    ends = [12, 12, 5] if way == "packed" else [12] * 3
    assert leaf.grad is not None
    logs = [row[:end].flip(0).norm(dim=-1).log() for row, end in zip(leaf.grad, ends, strict=True)]
    slopes = [float(np.polyfit(np.arange(1, end), row[1:].numpy(), 1)[0]) for row, end in zip(logs, ends, strict=True)]
    profile = [float(torch.stack([row[k] for row in logs if k < len(row)]).mean()) for k in range(12)]
    assert found.series.values["log10_influence"] == pytest.approx([one / math.log(10) for one in profile])
    assert (found.summary.needed_lag, found.summary.zero_lags) == (11, ())
    assert found.summary.rate == pytest.approx(sum(slopes) / 3)
    assert found.summary.reach == max(k for k in range(1, 12) if profile[k] >= profile[1] + math.log(0.01))


def test_a_sum_of_losses_over_fewer_steps_is_said() -> None:
    found = analyze(Shorter("own loss").double(), torch.randn(3, 14, 3, dtype=torch.float64)).models[0]
    assert any(note.startswith("what the loss reads adds up 12 of 12 steps") for note in found.notes)

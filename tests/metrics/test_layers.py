"""Every layer by itself: rate and reach of its own input, its own Jacobians and products."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import gradscope
from cases import Case
from gradscope.metrics import layers
from gradscope.models.rnn import RNNCell
from gradscope.models.stack import Recurrent
from gradscope.models.whole_module import WholeModule
from gradscope.numerics.analysis import Analysis, Run
from gradscope.records import Layer, RunSpec


def measured(model: Recurrent | WholeModule, x: Tensor, **settings: object) -> tuple[Layer, ...]:
    def loss(y: Tensor) -> Tensor:
        return y[:, -1].sum()

    return layers.measure(Analysis((Run(model, x, loss),), RunSpec(batch=len(x), **settings)))


def linear(name: str, factor: float) -> RNNCell:
    """h_t = factor h_{t-1} + x_t, one unit."""
    weights = {
        "weight_ih": torch.ones(1, 1, dtype=torch.float64),
        "weight_hh": torch.full((1, 1), factor, dtype=torch.float64),
    }
    return RNNCell(name, weights, "linear")


def test_two_linear_layers_in_closed_form() -> None:
    slow, fast = 0.9, 0.5
    steps = 30
    found = measured(Recurrent("rnn", [linear("l0", slow), linear("l1", fast)]), torch.ones(1, steps, 1).double())
    bottom, top = found
    assert (bottom.name, top.name) == ("l0", "l1")
    # The top layer's input k steps back acts on its newest output by 0.5^k: ln 0.5 a step, 1 % reached at k = 6.64
    # beyond lag 1.
    assert top.summary["rate"] == pytest.approx(math.log(fast), abs=1e-12)
    assert top.summary["reach"] == 7
    # The bottom layer's: sum over j of 0.9^(k-j) 0.5^j = (0.9^(k+1) - 0.5^(k+1)) / 0.4.
    profile = [math.log((slow ** (k + 1) - fast ** (k + 1)) / (slow - fast)) for k in range(steps)]
    lags = torch.arange(1, steps, dtype=torch.float64)
    logs = torch.tensor(profile[1:], dtype=torch.float64)
    slope = ((lags - lags.mean()) * logs).sum() / (lags - lags.mean()).square().sum()
    assert bottom.summary["rate"] == pytest.approx(float(slope), abs=1e-12)
    assert bottom.summary["reach"] == max(k for k in range(1, steps) if profile[k] >= profile[1] + math.log(0.01))
    for layer, factor in ((bottom, slow), (top, fast)):
        values = layer.series.values
        assert values["log10_jacobian_norm"] == pytest.approx([math.log10(factor)] * steps, abs=1e-12)
        powers = [math.log10(factor) * (steps - t) for t in range(steps + 1)]
        assert values["log10_product_norm"] == pytest.approx(powers, abs=1e-12)


def test_influence_of_a_layers_input_is_that_of_autograd() -> None:
    case = Case("gru", {"layers": "2"}, batch=1, length=12)
    model, x = case.model(), case.x()
    top = measured(model, x)[1]
    with torch.enable_grad():
        state = [cell.initial_state(1) for cell in model.cells]
        inner, outputs = [], []
        for step in x.unbind(1):
            state[0] = model.cells[0].step(step, state[0])
            inner.append(model.cells[0].output(step, state[0]).detach().requires_grad_())
            state[1] = model.cells[1].step(inner[-1], state[1])
            outputs.append(model.cells[1].output(inner[-1], state[1]))
        gradients = torch.autograd.grad(outputs[-1].sum(), inner)
    logs = torch.stack([g.norm() for g in gradients]).log().flip(0)[1:]
    lags = torch.arange(1, len(logs) + 1, dtype=torch.float64)
    slope = ((lags - lags.mean()) * logs).sum() / (lags - lags.mean()).square().sum()
    assert top.summary["rate"] == pytest.approx(float(slope), abs=1e-10)


def test_a_single_layer_has_no_table() -> None:
    case = Case("lstm")
    assert measured(case.model(), case.x()) == ()


def test_a_layer_that_reads_backwards_is_told_by_steps_of_its_input() -> None:
    torch.manual_seed(0)
    module = nn.RNN(3, 4, batch_first=True, bidirectional=True).double()

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = module

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(x)[0]

    x = torch.randn(1, 9, 3, dtype=torch.float64)
    forward, reverse = measured(WholeModule("both", Both(), 3, kind="module"), x)
    assert (forward.name, reverse.name) == ("l0.forward", "l0.reverse")
    # At the newest step the reverse layer has read one input only: nothing older reaches what the loss reads.
    ahead, back = (layer.series.values["log10_grad_input"] for layer in (forward, reverse))
    assert all(value > -20 for value in ahead)
    assert back[-1] > -20
    assert set(back[:-1]) == {-math.inf}
    assert reverse.summary["reach"] is None


class TwoAxes(nn.Module):
    """Two layers of torch that take each other's batch for time."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.LSTM(3, 4, batch_first=True), nn.LSTM(4, 4)

    def forward(self, x):
        return self.b(self.a(x)[0])[0][:, -1]


def test_layers_of_other_steps_have_no_place_on_the_axis_of_the_sequence():
    x = torch.randn(6, 20, 3, dtype=torch.float64)
    found = gradscope.analyze(TwoAxes().double(), x).models[0]
    assert next(one for one in found.verdicts if one.code == "GS403").status in ("warn", "fail")
    assert {len(values) for name, values in found.series.values.items() if name.startswith("gate.")} == {20}
    steps = {layer.name: layer.series.step[-1] for layer in found.layers}
    assert steps == {"a.l0": 20, "b.l0": 6}
    by_name = {layer.name: layer.summary for layer in found.layers}
    assert by_name["a.l0"]["rate"] is not None
    assert (by_name["b.l0"]["rate"], by_name["b.l0"]["reach"]) == (None, None)


class TwoWays(nn.Module):
    """A loop each way, both from one row: no Jacobian at the first turn."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("first", torch.zeros(6, dtype=torch.float64))
        drawn = torch.Generator().manual_seed(0)
        self.w = nn.Parameter(torch.randn(2, 3, 2, generator=drawn, dtype=torch.float64))
        self.u = nn.Parameter(torch.randn(2, 3, generator=drawn, dtype=torch.float64))

    def run(self, way: int, x: Tensor, h: Tensor, order: range) -> Tensor:
        outputs = {}
        for t in order:
            outputs[t] = h = torch.tanh(x[:, t] @ self.w[way].T + self.u[way] * h)
        return torch.stack([outputs[t] for t in range(x.shape[1])], 1)

    def forward(self, x: Tensor) -> Tensor:
        begun = self.first.unsqueeze(0).expand(len(x), 6).contiguous()
        there = self.run(0, x, begun[:, :3], range(x.shape[1]))
        return torch.cat((there, self.run(1, x, begun[:, 3:], range(x.shape[1] - 1, -1, -1))), -1)


def test_a_written_layer_from_its_first_full_state_on_is_told_by_steps_of_its_input():
    """J = diag((1 - h^2) u), by hand; the first turn of each loop, and P over it, have no state to begin with."""
    module, x = TwoWays(), torch.randn(2, 9, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = gradscope.analyze(module, x, lambda y: y[:, -1].sum()).models[0].layers
    slopes = ((1 - module(x)[0].unflatten(1, (2, 3)) ** 2) * module.u).detach()
    norms = slopes.abs().amax(2).log10()
    forth, back = (layer.series.values for layer in found)
    assert forth["log10_jacobian_norm"] == (None, *(pytest.approx(v, abs=1e-9) for v in norms[1:, 0].tolist()))
    assert back["log10_jacobian_norm"] == (*(pytest.approx(v, abs=1e-9) for v in norms[:-1, 1].tolist()), None)
    # The product of a step goes on to the turn that ends the layer: the last step there, the first on the way back.
    after = [float(slopes[t + 1 :, 0].prod(0).abs().amax().log10()) for t in range(9)]
    before = [float(slopes[:t, 1].prod(0).abs().amax().log10()) for t in range(9)]
    assert forth["log10_product_norm"] == (None, *(pytest.approx(v, abs=1e-9) for v in after))
    assert back["log10_product_norm"] == (None, *(pytest.approx(v, abs=1e-9) for v in before))


def test_gates_of_a_reverse_layer_stand_at_the_steps_of_its_input():
    torch.manual_seed(0)
    net = nn.LSTM(3, 4, bidirectional=True, batch_first=True).double()
    x = torch.randn(2, 9, 3, dtype=torch.float64) * 3
    found = gradscope.analyze(net, x, lambda y: y[:, -1].sum()).models[0]
    backward = nn.LSTM(3, 4, batch_first=True).double()
    backward.load_state_dict({k.removesuffix("_reverse"): v for k, v in net.state_dict().items() if "reverse" in k})
    own = gradscope.analyze(backward, x.flip(1), lambda y: y[:, -1].sum()).models[0].series.values["gate.forget.mean"]
    ways = {layer.name: layer.series.values["gate.forget.mean"] for layer in found.layers}
    (reverse,) = [values for name, values in ways.items() if "reverse" in name]
    (forward,) = [values for name, values in ways.items() if "reverse" not in name]
    assert reverse == pytest.approx(own[::-1])
    both = [(a + b) / 2 for a, b in zip(forward, reverse, strict=True)]
    assert found.series.values["gate.forget.mean"] == pytest.approx(both)


class Loop(nn.Module):
    """One written layer with two parts of a state, h and c, which are no two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Linear(3 + 48, 2 * 48)

    def forward(self, x):
        h, c = x.new_zeros(len(x), 48), x.new_zeros(len(x), 48)
        out = []
        for t in range(x.shape[1]):
            gate, new = self.w(torch.cat((x[:, t], h), 1)).chunk(2, 1)
            c = torch.sigmoid(gate) * c + torch.tanh(new)
            h = torch.tanh(c) + 0.5 * h
            out.append(h)
        return torch.stack(out, 1)


def test_the_parts_of_one_state_are_not_called_layers():
    found = gradscope.analyze(Loop().double(), torch.randn(2, 9, 3, dtype=torch.float64)).models[0]
    assert found.heading.startswith("state 48+48 · T=9")

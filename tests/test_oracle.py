"""Modules drawn from a grammar: every number of their reports against plain autograd, and against each other."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope.records import ModelResult

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="a source distribution has no benchmarks")
sys.path.append(str(ROOT))

if (ROOT / "benchmarks").is_dir():
    from benchmarks.oracle.compare import cotangent, differences, loss
    from benchmarks.oracle.modules import Recipe, Written, draw, draw_wide, draw_written

OF_INPUT = ("rate", "rate_ci", "reach", "coverage", "temporal_range", "gradient_share", "zero_lags", "needed_lag")
OF_STATE = ("directions", "lyapunov", "finite_time_exponents", "log10_condition", "chain_rule_residual")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("seed", [*range(25), 147, 594, 825, 843, 1776, 2146, 3003, 3104, 4122, 4442, 4797, 12275])
def test_every_number_is_that_of_plain_autograd(seed: int) -> None:
    recipe = draw(seed)
    assert differences(recipe) == [], str(recipe)


RESTING = [
    Recipe(2, layers=2, begin="learned", output="named", loop="iterate", gain=2.5, steps=7, reads="every", needs_lag=4),
    Recipe(9, "lstm", 2, between="residual", begin="learned", output="last", loop="unbind", gain=2.5, steps=7, batch=1),
    Recipe(10, layers=3, output="last", head=True, gain=1.5, hidden=4, steps=5, needs_lag=3),
    Recipe(0, "gru", 2, between="residual", mask=True, output="scalar", head=True, gain=1.5, steps=12, needs_lag=2),
    Recipe(24, "gru", 3, between="residual", mask=True, output="last", head=True, gain=2.5, steps=7),
]


@pytest.mark.parametrize("recipe", [replace(recipe, clockwork=True) for recipe in RESTING], ids=str)
def test_every_number_of_layers_that_rest_too(recipe: Recipe) -> None:
    assert differences(recipe) == [], str(recipe)


@pytest.mark.parametrize("seed", [1, 10])
def test_layers_that_rest_one_after_the_other_over_the_sequence_have_no_state_that_is_told(seed: int) -> None:
    module, x, of_loss = drawn(Recipe(seed, layers=2, steps=6, by_layer=True, clockwork=True, head=True))
    result = analysed(module, x, of_loss)
    assert "stays as it is at some steps" in result.skipped["lyapunov"]
    assert not {"log10_jacobian_norm", "log10_grad_state"} & result.series.values.keys()
    assert result.summary.finite_time_exponents is None


@pytest.mark.parametrize("seed", [*range(10), 1008, 1142, 2286, 3108, 5250, 6134])
def test_every_number_of_the_wider_grammar_too(seed: int) -> None:
    recipe = draw_wide(seed)
    assert differences(recipe) == [], str(recipe)


@pytest.mark.parametrize("seed", [0, 1, 3, 5, 9, 10, 11, 16, 19, 22, 28, 31, 33])
def test_every_number_where_outputs_and_states_are_written_into_tensors(seed: int) -> None:
    recipe = draw_written(seed)
    assert differences(recipe) == [], str(recipe)


def analysed(module: Written, x: Tensor, of_loss: Callable[[Any], Tensor], **settings: Any) -> ModelResult:
    if module.recipe.output == "time first":
        settings["layout"] = "time-first"
    return gradscope.analyze(module, x, of_loss, needs_lag=module.recipe.needs_lag, **settings).models[0]


def drawn(recipe: Recipe) -> tuple[Written, Tensor, Callable[[Any], Tensor]]:
    module = Written(recipe)
    generator = torch.Generator().manual_seed(recipe.seed)
    x = torch.randn(recipe.batch, recipe.steps, recipe.features, dtype=torch.float64, generator=generator)
    v = cotangent(module, x)
    return module, x, lambda raw: loss(recipe, v, raw)


def near(one: Any, other: Any) -> bool:
    """Whether two numbers, or two of many, are the same but for rounding."""
    if one is None or other is None or isinstance(one, str):
        return bool(one == other)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(near(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other) or abs(one - other) <= 1e-6 * max(1.0, abs(one)) or max(one, other) < -13


def alike(
    one: ModelResult, other: ModelResult, *, series: tuple[str, ...] = (), state: bool = True, ordered: bool = True
) -> list[str]:
    """What two results differ in; where the parts of a state may be `ordered` otherwise, the sum of exponents counts.

    Exponents of a finite time hang on the basis that the frame starts from; their sum does not.
    """
    found = [f"status: {one.status}, {other.status}"] if one.status != other.status else []
    names = OF_INPUT + (OF_STATE[:-1] if state else ())
    pairs = [(name, getattr(one.summary, name), getattr(other.summary, name)) for name in names]
    if not ordered:
        pairs = [(name, _sum(a), _sum(b)) if name == "lyapunov" else (name, a, b) for name, a, b in pairs]
    pairs += [(name, one.series.values.get(name), other.series.values.get(name)) for name in series]
    return [*found, *(f"{name}: {a}, {b}" for name, a, b in pairs if not near(a, b))]


def _sum(exponents: tuple[float | None, ...] | None) -> float | None:
    return None if exponents is None or None in exponents else sum(value for value in exponents if value is not None)


BY_STEP = ("log10_influence", "log10_grad_input")
CHAIN = ("log10_jacobian_norm", "log10_product_norm", "log10_grad_state")
SEEDS = range(100, 108)


@pytest.mark.parametrize("seed", SEEDS)
def test_twice_the_loss_is_the_same_gradient_twice(seed: int) -> None:
    module, x, once = drawn(draw(seed))
    one, two = analysed(module, x, once), analysed(module, x, lambda raw: 2 * once(raw))
    assert alike(one, two, series=("log10_jacobian_norm", "log10_product_norm", "weight_share")) == []
    for name in ("log10_influence", "log10_grad_input", "log10_grad_state"):
        moved = [None if a is None else a + math.log10(2) for a in one.series.values[name]]
        assert near(moved, list(two.series.values[name])), name


@pytest.mark.parametrize("seed", SEEDS)
def test_the_order_of_sequences_changes_no_mean(seed: int) -> None:
    recipe = replace(draw(seed), batch=3)
    module, x, _ = drawn(recipe)
    v, order = cotangent(module, x), [2, 0, 1]
    one = analysed(module, x, lambda raw: loss(recipe, v, raw))
    two = analysed(module, x[order], lambda raw: loss(recipe, v[order], raw))
    assert alike(one, two, series=(*BY_STEP, "log10_grad_state", "weight_share"), state=False) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_the_order_of_units_changes_nothing(seed: int) -> None:
    recipe = replace(draw(seed), cell="minimal gated", delay=0, norm=False, whole=False, hidden=3)
    recipe = replace(recipe, needs_lag=None, by_layer=recipe.by_layer and recipe.layers > 1)
    module, x, of_loss = drawn(recipe)
    one, order = analysed(module, x, of_loss), [1, 2, 0]
    two = analysed(
        _permuted(module, order),
        x,
        of_loss if recipe.head or recipe.output in ("value", "scalar") else _of(module, x, order),
    )
    assert alike(one, two, series=(*BY_STEP, *CHAIN), ordered=False) == []


def _of(module: Written, x: Tensor, order: list[int]) -> Callable[[Any], Tensor]:
    v = cotangent(module, x)[..., order]
    return lambda raw: loss(module.recipe, v, raw)


def _permuted(module: Written, order: list[int]) -> Written:
    """The same module, units of every layer in another order."""
    twin = Written(module.recipe)
    twin.load_state_dict(module.state_dict())
    with torch.no_grad():
        for index, unit in enumerate(twin.units):
            width = module.recipe.hidden if index else module.recipe.features
            given = order if index else list(range(width))
            gate = [*given, *(width + place for place in order)]
            unit.u.weight.copy_(unit.u.weight[order][:, given])
            unit.w.weight.copy_(unit.w.weight[order][:, order])
            unit.gate.weight.copy_(unit.gate.weight[order][:, gate])
            for linear in (unit.u, unit.w, unit.gate):
                linear.bias.copy_(linear.bias[order])
        for between in (*twin.norms, *twin.linears):
            between.weight.copy_(between.weight[order][:, order] if between.weight.ndim == 2 else between.weight[order])
            between.bias.copy_(between.bias[order])
        if module.recipe.begin == "learned":
            twin.first.copy_(twin.first[..., order])
        if module.recipe.head:
            twin.readout.weight.copy_(twin.readout.weight[:, order])
    return twin


@pytest.mark.parametrize("seed", SEEDS)
def test_layer_by_layer_is_step_by_step(seed: int) -> None:
    recipe = replace(draw(seed), layers=2, delay=0, whole=False)
    results = []
    for by_layer in (False, True):
        module, x, of_loss = drawn(replace(recipe, by_layer=by_layer))
        results.append(analysed(module, x, of_loss))
    assert alike(*results, series=(*BY_STEP, *CHAIN), ordered=False) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_time_first_is_batch_first(seed: int) -> None:
    recipe = draw(seed)
    results = []
    for output in ("steps", "time first"):
        module, x, of_loss = drawn(replace(recipe, output=output))
        results.append(analysed(module, x, of_loss))
    assert alike(*results, series=(*BY_STEP, *CHAIN)) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_a_loss_that_reads_step_k_is_the_first_k_steps_alone(seed: int) -> None:
    recipe = replace(draw(seed), output="steps", steps=9, reads="6", needs_lag=None if seed % 2 else 3)
    module, x, of_loss = drawn(recipe)
    short = Written(replace(recipe, steps=6))
    short.load_state_dict({**module.state_dict(), "kept": module.kept[:6]})
    v = cotangent(short, x[:, :6])
    v[:, -1] = torch.autograd.grad(of_loss(leaf := module(x).detach().requires_grad_()), leaf)[0][:, 5]
    one, two = analysed(module, x, of_loss), analysed(short, x[:, :6], lambda y: (y * v).sum())
    assert alike(one, two, series=("log10_influence",)) == []


@pytest.mark.parametrize("kind", ["tanh", "gru", "lstm"])
def test_the_same_weights_in_four_forms_are_one_model(kind: str, tmp_path: Path) -> None:
    """A module of torch, the same inside another module, a loop over its cell, and a file of its weights."""
    x = torch.randn(2, 9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    own = {"tanh": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}[kind](3, 4, batch_first=True, dtype=torch.float64)
    module = Written(Recipe(0, kind, whole=True, by_layer=True, features=3, hidden=4, steps=9))
    module.units[0].over_sequence.load_state_dict(own.state_dict())
    written = Written(Recipe(0, kind, features=3, hidden=4, steps=9))
    if kind == "tanh":
        written.units[0].u.weight.data, written.units[0].u.bias.data = own.weight_ih_l0.data, own.bias_ih_l0.data
        written.units[0].w.weight.data, written.units[0].w.bias.data = own.weight_hh_l0.data, own.bias_hh_l0.data
    else:
        written.units[0].torch.load_state_dict({name[:-3]: value for name, value in own.state_dict().items()})
    torch.save(own.state_dict(), tmp_path / "weights.pt")
    torch.save(x, tmp_path / "x.pt")
    results = [gradscope.analyze(form, x).models[0] for form in (own, module, written)]
    results.append(gradscope.analyze(str(tmp_path / "weights.pt"), input=str(tmp_path / "x.pt")).models[0])
    for other in results[1:]:
        assert alike(results[0], other, series=(*BY_STEP, *CHAIN)) == [], other.name


def test_more_gain_is_never_a_smaller_rate_and_growth_is_never_vanishing() -> None:
    rates = []
    for gain in (0.5, 0.8, 1.0, 1.15, 1.5, 2.0):
        word = f"rnn:nonlinearity=linear,init=orthogonal,gain={gain},hidden=8"
        for lag in (None, 3, 20, 59):
            result = gradscope.analyze(word, length=60, needs_lag=lag).models[0]
            assert result.summary.rate is not None
            if gain > 1:
                assert result.status in ("exploding", "healthy", "inconclusive"), (gain, lag)
        rates.append(result.summary.rate)
    assert rates == sorted(rates)
    assert rates[0] == pytest.approx(math.log(0.5), abs=0.01)


@pytest.mark.parametrize("factor", [0.01, 100.0])
def test_rescaled_relu_units_carry_the_same_gradient(factor: float) -> None:
    """H' = c h is the same function of the input: W_hh stays, W_ih and biases times c, the head by c."""
    torch.manual_seed(3)
    one = nn.Sequential()
    one.rnn, one.head = nn.RNN(3, 5, nonlinearity="relu", batch_first=True), nn.Linear(5, 2)
    x = torch.randn(2, 12, 3, dtype=torch.float64)
    results = []
    for scale in (1.0, factor):
        model = _Headed(one.rnn, one.head, scale)
        results.append(gradscope.analyze(model, x).models[0])
    assert alike(*results, series=BY_STEP) == []


class _Headed(nn.Module):
    def __init__(self, rnn: nn.RNN, head: nn.Linear, scale: float) -> None:
        super().__init__()
        self.rnn, self.head = nn.RNN(3, 5, nonlinearity="relu", batch_first=True), nn.Linear(5, 2)
        self.double()
        with torch.no_grad():
            for name, weight in rnn.named_parameters():
                getattr(self.rnn, name).copy_(weight.double() * (1 if name == "weight_hh_l0" else scale))
            self.head.weight.copy_(head.weight.double() / scale)
            self.head.bias.copy_(head.bias.double())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])

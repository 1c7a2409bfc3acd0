"""What must hold for every chain, model and sequence, tried on drawn ones."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cases import RECURRENT, Case
from gradscope.api import analyze
from gradscope.chain import ArrayChain
from gradscope.models import user_step
from gradscope.models.rnn import RNNCell
from gradscope.models.stack import Recurrent
from gradscope.models.user_step import CustomCell
from gradscope.numerics import adjoint, first_nonfinite, products
from gradscope.numerics.adjoint import Adjoint, Scaled, backpropagate, sweep
from gradscope.numerics.analysis import Analysis, Run
from gradscope.numerics.logscale import normalise
from gradscope.numerics.lyapunov import adjoint_profile, lyapunov
from gradscope.numerics.products import jacobian_sigma, sweep_products
from gradscope.numerics.spectra import leading_spectra, product_spectra
from gradscope.records import Report, RunSpec
from gradscope.renderers.report_data import json_text
from gradscope.renderers.view import View

few = settings(max_examples=12, deadline=None, derandomize=True, database=None)
SEEDS = st.integers(0, 2**31)
SIZES = st.integers(1, 6)
CASES = st.sampled_from(RECURRENT)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def drawn_chain(seed: int, length: int, size: int) -> Tensor:
    """Jacobians (length, size, size) whose overall gain is anything from e^-3 to e^3 a step."""
    scale = math.exp(3 * math.tanh(float(numbers(seed + 1, 1))))
    return scale * numbers(seed, length, size, size) / math.sqrt(size)


def multiplied(factors: Tensor) -> Tensor:
    product = torch.eye(factors.shape[-1], dtype=torch.float64)
    for factor in factors:
        product = factor @ product
    return product


def rotation(seed: int, size: int) -> Tensor:
    return torch.linalg.qr(numbers(seed, size, size)).Q


def of_case(case: Case, seed: int) -> tuple[Recurrent, Tensor, Tensor]:
    """A model, x (batch, T, features) and a cotangent of its output."""
    model, x = case.model(seed % 1000), case.x(seed % 1001)
    return model, x, numbers(seed, *x.shape[:2], model.output_size)


def logs_of(found: Adjoint) -> list[Tensor]:
    return [getattr(layer, name) for layer in found.layers for name in ("state", "joint", "input", "weight")]


class UserCell(nn.Module):
    """What a user may bring: weights with gradients, dropout in training mode, and a state of its own shape."""

    input_size = 3

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.dropout = nn.Linear(7, 4, dtype=torch.float64), nn.Dropout(0.5)
        self.initial_state = torch.zeros(4, dtype=torch.float64)

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        return torch.tanh(self.dropout(self.inner(torch.cat([x, s], -1))))


def custom_model(seed: int) -> Recurrent:
    w, u = numbers(seed, 4, 4) / 2, numbers(seed + 1, 3, 4)
    cell = CustomCell("cell", lambda x, s: torch.tanh(s @ w + x @ u) * s.cos(), numbers(seed + 2, 4), 3)
    return Recurrent("custom", [cell])


# --- products


@few
@given(SEEDS, SIZES, st.integers(2, 12))
def test_a_product_may_be_split_anywhere(seed: int, size: int, length: int) -> None:
    factors = drawn_chain(seed, length, size)
    norms = sweep_products(ArrayChain(factors)).log10_norm
    (whole,) = product_spectra(factors, [length])
    for k in range(1, length):
        halves = torch.stack([multiplied(factors[:k]), multiplied(factors[k:])])
        split = sweep_products(ArrayChain(halves)).log10_norm
        torch.testing.assert_close(split[[0, 1]], norms[[0, k]], rtol=0, atol=1e-9)
        # The halves are rounded when they are multiplied out, which the smallest values feel by their condition.
        ln = product_spectra(halves, [2])[0].ln_sigma
        solid = whole.ln_sigma > whole.ln_sigma[0] - math.log(1e5)
        torch.testing.assert_close(ln[solid], whole.ln_sigma[solid], rtol=0, atol=1e-9)


@few
@given(SEEDS, SIZES, st.integers(2, 40))
def test_norms_are_submultiplicative(seed: int, size: int, length: int) -> None:
    chain = ArrayChain(drawn_chain(seed, length, size))
    norms, single = sweep_products(chain).log10_norm, jacobian_sigma(chain)[:, 0] / math.log(10)
    for t in range(length):
        assert norms[t] <= norms[t + 1] + single[t] + 1e-9
    for k in range(1, length):
        older = sweep_products(ArrayChain(chain.jacobians[0, :k])).log10_norm[0]
        assert norms[0] <= norms[k] + older + 1e-9


@few
@given(SEEDS, SIZES, st.integers(1, 60))
def test_a_change_of_basis_leaves_singular_values_alone(seed: int, size: int, length: int) -> None:
    factors, q = drawn_chain(seed, length, size), rotation(seed + 2, size)
    turned = q @ factors @ q.T
    lags = sorted({1, length})
    for one, two in zip(product_spectra(factors, lags), product_spectra(turned, lags), strict=True):
        torch.testing.assert_close(one.ln_sigma, two.ln_sigma, rtol=1e-10, atol=1e-8)
    torch.testing.assert_close(
        sweep_products(ArrayChain(factors)).log10_norm, sweep_products(ArrayChain(turned)).log10_norm, rtol=0, atol=1e-9
    )
    first, second = (leading_spectra(ArrayChain(f), lags, size).ln_sigma for f in (factors, turned))
    leading = first > first[:, :1] - math.log(1e6)
    torch.testing.assert_close(first[leading], second[leading], rtol=0, atol=1e-3)


@few
@given(SEEDS, SIZES, st.integers(1, 80))
def test_exponents_sum_to_the_mean_of_ln_det(seed: int, size: int, length: int) -> None:
    factors = drawn_chain(seed, length, size)
    assert float(torch.linalg.cond(factors).max()) < 1e12
    expected = float(torch.linalg.slogdet(factors).logabsdet.mean())
    assert float(lyapunov(ArrayChain(factors)).mean.sum()) == pytest.approx(expected, abs=1e-10)
    (spectrum,) = product_spectra(factors, [length])
    assert float(spectrum.ln_sigma.sum()) / length == pytest.approx(expected, abs=1e-10)


# --- adjoints


@few
@given(CASES, SEEDS)
def test_adjoint_dot_test(case: Case, seed: int) -> None:
    model, x, _ = of_case(case, seed)
    for trajectory in (model.run(x), custom_model(seed).run(x)):
        v, c = (numbers(seed + i, trajectory.batch, trajectory.size, 2) for i in (3, 4))
        forward, backward = v, c
        for t in range(1, trajectory.length + 1):
            forward = trajectory.matmat(t, forward)
        for t in range(trajectory.length, 0, -1):
            backward = trajectory.rmatmat(t, backward)
            assert_dual(c, trajectory.matmat(t, v), trajectory.rmatmat(t, c), v)
        assert_dual(c, forward, backward, v)


@few
@given(CASES, SEEDS)
def test_adjoint_dot_test_of_inputs_and_outputs(case: Case, seed: int) -> None:
    model, x, _ = of_case(case, seed)
    for layer, cell in zip(model.run(x).layers, model.cells, strict=True):
        dx, ds, c, dy = (
            numbers(seed + i, x.shape[0], width)
            for i, width in enumerate((cell.input_size, cell.state_size, cell.state_size, cell.output_size))
        )
        for t in range(x.shape[1]):
            before, delta = layer.pull(t, c)
            left = (c * layer.push(t, ds, dx)).sum()
            right = (before * ds).sum() + (layer.pull_input(t, delta) * dx).sum()
            torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-13)
            to_state, to_input = layer.pull_output(t, dy)
            left, right = (dy * layer.push_output(t, ds, dx)).sum(), (to_state * ds).sum()
            right = right if to_input is None else right + (to_input * dx).sum()
            torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-13)


def assert_dual(c: Tensor, jv: Tensor, jc: Tensor, v: Tensor) -> None:
    """<c, J v> = <J^T c, v>, to rounding of the terms that are summed."""
    terms = (c * jv).abs().sum() + (jc * v).abs().sum()
    assert abs(float((c * jv).sum() - (jc * v).sum())) <= 1e-12 * float(terms)


@few
@given(CASES, SEEDS, st.integers(-900, 900))
def test_scaling_the_loss_by_a_power_of_two_moves_exponents_alone(case: Case, seed: int, k: int) -> None:
    model, x, v = of_case(case, seed)
    trajectory = model.run(x)
    one, two = (Scaled(*normalise(w.transpose(0, 1))) for w in (v, torch.ldexp(v, torch.tensor(k))))
    for layer in reversed(trajectory.layers):
        (_, one), (_, two) = sweep(layer, one, None), sweep(layer, two, None)
        assert torch.equal(one.m, two.m)
        assert torch.equal(one.e + k, two.e)
    scaled = backpropagate(trajectory, torch.ldexp(v, torch.tensor(k)))
    for before, after in zip(logs_of(backpropagate(trajectory, v)), logs_of(scaled), strict=True):
        torch.testing.assert_close(before + k * math.log10(2), after, rtol=0, atol=1e-12)


@few
@given(CASES, SEEDS)
def test_a_row_of_a_batch_is_a_single_run(case: Case, seed: int) -> None:
    model, x, v = of_case(case, seed)
    together = model.run(x)
    found = backpropagate(together, v)
    for b in range(x.shape[0]):
        alone = model.run(x[b : b + 1])
        torch.testing.assert_close(alone.output, together.output[b : b + 1], rtol=0, atol=1e-12)
        torch.testing.assert_close(
            alone.dense(0, alone.length)[0], together.dense(0, alone.length)[b], rtol=0, atol=1e-12
        )
        for single, row in zip(logs_of(backpropagate(alone, v[b : b + 1])), logs_of(found), strict=True):
            torch.testing.assert_close(single, row[:, b : b + 1], rtol=0, atol=1e-12)


@few
@given(st.one_of(CASES, st.none()), SEEDS, st.integers(1, 200))
def test_chunk_sizes_change_nothing(case: Case | None, seed: int, chunk: int) -> None:
    model = custom_model(seed) if case is None else case.model(seed % 1000)
    x = numbers(seed, 2, 9, 3)
    v = numbers(seed + 1, 2, 9, model.output_size)

    def measured() -> list[Tensor]:
        trajectory = model.run(x)
        found, swept = backpropagate(trajectory, v), sweep_products(trajectory)
        weight = torch.tensor([layer.weight_gradient or 0.0 for layer in found.layers], dtype=torch.float64)
        logs = [log for log in logs_of(found) if log is not None]
        return [
            *logs,
            weight,
            swept.log10_norm,
            torch.tensor([float(swept.directions)]),
            jacobian_sigma(trajectory)[:, 0],
        ]

    whole = measured()
    with pytest.MonkeyPatch.context() as patch:
        for room in (adjoint, products, user_step):
            patch.setattr(room, "CHUNK_NUMBERS", chunk)
        # Bound when the function was made.
        patch.setattr(products.chunks, "__defaults__", (chunk,))
        for one, two in zip(whole, measured(), strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=1e-9)


@pytest.mark.parametrize("family", ["rnn", "gru", "lstm"])
@few
@given(SEEDS)
def test_the_order_of_hidden_units_does_not_matter(family: str, seed: int) -> None:
    case = Case(family, {"hidden": "6"}, length=20)
    model, x, v = of_case(case, seed)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    mixed = case.model(seed % 1000)
    for name, weight in mixed.cells[0].parameters.items():
        blocks = weight.reshape(-1, 6, *weight.shape[1:])[:, order].flatten(0, 1)
        weight.copy_(blocks[:, order] if name == "weight_hh" else blocks)
    one, two = model.run(x), mixed.run(x)
    pairs = zip(logs_of(backpropagate(one, v)), logs_of(backpropagate(two, v[..., order])), strict=True)
    for before, after in pairs:
        torch.testing.assert_close(before, after, rtol=0, atol=1e-9)
    for measure in (lambda t: sweep_products(t).log10_norm, lambda t: jacobian_sigma(t)[:, :3]):
        torch.testing.assert_close(measure(one), measure(two), rtol=0, atol=1e-9)
    # Single QR exponents depend on the frame they start from until they settle; their sum and leading growth do not.
    spectra = [product_spectra(t.dense(0, 20)[0], [20])[0] for t in (one, two)]
    solid = spectra[0].resolved & spectra[1].resolved
    torch.testing.assert_close(spectra[0].ln_sigma[solid], spectra[1].ln_sigma[solid], rtol=1e-9, atol=1e-7)
    if bool(solid.all()):
        sums = [float(lyapunov(t).mean.sum()) for t in (one, two)]
        assert sums[0] == pytest.approx(sums[1], abs=1e-9)


# --- the ends of the range


def test_a_decay_of_5000_steps_is_a_plain_number() -> None:
    chain = ArrayChain(torch.full((5000, 1, 1), 0.9, dtype=torch.float64))
    found = adjoint_profile(chain, torch.ones(1, dtype=torch.float64))
    assert float(found[0, -1]) * math.log(10) == pytest.approx(-526.8025782891314, abs=1e-9)
    assert float(sweep_products(chain).log10_norm[0]) * math.log(10) == pytest.approx(-526.8025782891314, abs=1e-9)


@pytest.mark.parametrize(("dtype", "steps"), [(torch.float64, 100_000), (torch.float32, 5_000)], ids=str)
def test_gains_from_one_half_to_two_stay_finite(dtype: torch.dtype, steps: int) -> None:
    gains = (0.5, 2.0)
    weights = {"weight_ih": torch.zeros(2, 1, dtype=dtype), "weight_hh": torch.diag(torch.tensor(gains, dtype=dtype))}
    model = Recurrent("gains", [RNNCell("l0", weights, "linear")])
    v = torch.zeros(2, steps, 2, dtype=dtype)
    v[0, -1, 0] = v[1, -1, 1] = 1.0
    found = backpropagate(model.run(torch.zeros(2, steps, 1, dtype=dtype)), v).state
    assert bool(found.isfinite().all())
    expected = torch.arange(steps - 1, -1, -1, dtype=torch.float64)[:, None] * torch.tensor(gains).double().log10()
    torch.testing.assert_close(found[1:], expected, rtol=1e-12, atol=1e-12)


# --- whole analyses


@pytest.mark.parametrize("case", [Case("rnn"), Case("gru"), Case("lstm", {"layers": "2"}), Case("lru")], ids=str)
def test_nan_at_any_step_is_found_at_that_step(case: Case) -> None:
    for k in range(1, case.length + 1):
        x = case.x()
        x[-1, k - 1, 0] = math.nan
        run = Run(case.model(), x, lambda y: y[:, -1].sum())
        found = Analysis((run,), RunSpec()).non_finite
        assert found is not None
        assert (found.step, found.value, found.where) == (k, "nan", "input")
        born = first_nonfinite.in_trajectories([case.model().run(x)])
        assert born is not None
        assert (born.step, born.value, born.layer) == (k, "nan", "l0")


def fresh(kind: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        if kind == "cell":
            return UserCell()
        return nn.LSTM(3, 4, num_layers=2, dropout=0.5, batch_first=True, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["lstm", "cell"])
@pytest.mark.parametrize(("training", "grad"), [(True, True), (False, False)])
def test_analysis_leaves_what_it_was_given_as_it_was(kind: str, training: bool, grad: bool) -> None:
    model = fresh(kind).train(training)
    for index, weight in enumerate(model.parameters()):
        weight.requires_grad_(index % 2 == 0)
        weight.grad = torch.full_like(weight, 3.0) if index % 2 == 0 else None
    before, names, x = copy.deepcopy(model.state_dict()), set(vars(model)), numbers(0, 2, 8, 3)
    inputs, generator, plain, numpy_state = x.clone(), torch.get_rng_state(), random.getstate(), np.random.get_state()
    with torch.set_grad_enabled(grad):
        analyze(model, x, dtype="float64")
        assert torch.is_grad_enabled() == grad
    for index, (name, weight) in enumerate(model.named_parameters()):
        assert torch.equal(weight, before[name])
        assert weight.requires_grad == (index % 2 == 0)
        assert weight.grad is None if index % 2 else bool((weight.grad == 3.0).all())
    assert all(part.training == training for part in model.modules())
    assert set(vars(model)) == names
    assert torch.equal(x, inputs)
    assert torch.equal(torch.get_rng_state(), generator)
    assert random.getstate() == plain
    assert all(map(np.array_equal, np.random.get_state(), numpy_state))


@pytest.mark.parametrize("word", ["rnn", "lstm:layers=2", "gru", "lru", "attention", "transformer"])
@settings(few, max_examples=2)
@given(seed=st.integers(0, 10**6), length=st.integers(2, 12))
def test_the_same_seed_gives_the_same_bytes(word: str, seed: int, length: int) -> None:
    first, second = (written(analyze(word, seed=seed, length=length, hidden=8, batch=2, seeds=2)) for _ in range(2))
    assert first == second
    assert first != written(analyze(word, seed=seed + 1, length=length, hidden=8, batch=2, seeds=2))


def written(report: Report) -> str:
    found = json.loads(json_text(report, View()))
    assert found.pop("timing")["total"] > 0
    del found["run"]
    return json.dumps(found)


@pytest.mark.parametrize("kind", ["lstm", "cell"])
def test_objects_give_the_same_bytes_too(kind: str) -> None:
    x = numbers(0, 2, 8, 3)
    assert written(analyze(fresh(kind), x)) == written(analyze(fresh(kind), x))

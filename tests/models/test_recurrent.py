"""Every recurrent family: equal to torch.nn, and its closed-form linear maps equal to autograd."""

from __future__ import annotations

import pytest
import torch

from cases import RECURRENT, Case
from oracles import dense_jacobians, torch_twin

TWINS = [case for case in RECURRENT if case.family != "lru" and case.options.get("nonlinearity") != "linear"]


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(((a - b).norm() / b.norm()).detach())


def outputs_and_weight_gradients(model, parameters, x, v):
    y = model(x)
    y = y[0] if isinstance(y, tuple) else y
    return y, torch.autograd.grad((y * v).sum(), parameters)


@pytest.mark.parametrize("case", TWINS, ids=str)
def test_equals_torch_nn_in_outputs_and_weight_gradients(case: Case) -> None:
    model, x = case.model(), case.x()
    kind = {"nonlinearity": case.options.get("nonlinearity", "tanh")} if case.family == "rnn" else {}
    twin = torch_twin(model, case.family, **kind)
    v = torch.randn(case.batch, case.length, model.output_size, dtype=torch.float64)
    mine = [p.requires_grad_() for p in model.parameters().values()]
    theirs = [getattr(twin, f"{key}_l{index}") for index, cell in enumerate(model.cells) for key in cell.parameters]
    y, gradients = outputs_and_weight_gradients(model, mine, x, v)
    expected, wanted = outputs_and_weight_gradients(twin, theirs, x, v)
    assert relative(y, expected) <= 1e-12
    for gradient, want in zip(gradients, wanted, strict=True):
        assert relative(gradient, want) <= 1e-12
    assert relative(model.run(x).output, expected) <= 1e-12


@pytest.mark.parametrize("family", ["rnn", "gru", "lstm"])
def test_one_altered_weight_breaks_the_equality(family: str) -> None:
    case = Case(family)
    model, x = case.model(), case.x()
    twin = torch_twin(model, family)
    twin.weight_hh_l0.data[1, 2] += 1e-6
    assert relative(model(x), twin(x)[0]) > 1e-9


@pytest.mark.parametrize("case", RECURRENT, ids=str)
def test_dense_jacobians_equal_autograd(case: Case) -> None:
    model, x = case.model(), case.x()
    assert relative(model.run(x).dense(0, case.length), dense_jacobians(model, x)) <= 1e-13


@pytest.mark.parametrize("case", RECURRENT, ids=str)
def test_structured_products_equal_dense_ones(case: Case) -> None:
    trajectory = case.model().run(case.x())
    q = torch.randn(case.batch, trajectory.size, 4, dtype=torch.float64)
    for t in (1, 4, case.length):
        jacobian = trajectory.dense(t - 1, t)[:, 0]
        assert relative(trajectory.matmat(t, q), jacobian @ q) <= 1e-13
        assert relative(trajectory.rmatmat(t, q), jacobian.mT @ q) <= 1e-13


def test_tanh_slope_survives_saturation() -> None:
    model = Case("rnn").model()
    model.cells[0].parameters["bias_ih"][:] = 50.0
    slope = model.run(Case("rnn").x()).dense(0, 1)
    # 1/cosh^2(50) = 1.4880e-43 (by mpmath); 1 - tanh^2 would be exactly zero.
    assert 0 < float(slope.abs().max()) < 1e-38


def test_same_seed_same_weights_in_every_dtype() -> None:
    wide, narrow = Case("lstm").model(3).parameters(), Case("lstm").model(3, torch.float32).parameters()
    assert all(torch.equal(wide[key].float(), narrow[key]) for key in wide)
    assert not torch.equal(wide["l0.weight_hh"], Case("lstm").model(4).parameters()["l0.weight_hh"])


def test_building_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    Case("gru").model()
    assert torch.equal(before, torch.get_rng_state())

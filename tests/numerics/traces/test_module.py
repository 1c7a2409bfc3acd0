"""A user's module followed through its recurrences, held against autograd on the module as it stands."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from gradscope import analyze
from gradscope.models.token_models import TokenIds
from gradscope.models.whole_module import WholeModule
from gradscope.numerics.chain_rule import through_product
from gradscope.numerics.loop_trace import LoopTrace
from gradscope.numerics.module_trace import ModuleTrace
from gradscope.numerics.pick_trace import choose_module_trace
from gradscope.numerics.trace import Unavailable
from modules import CASES, CellLoop, Fed, ModuleCase, Normed, Strided, Wrapped


def traced(case: ModuleCase, x: Tensor | None = None) -> tuple[ModuleTrace, nn.Module]:
    module = case.module()
    model = WholeModule(case.name, module, 3, kind="module", time_first=None, ids=TokenIds(11) if case.ids else None)
    return choose_module_trace(model, case.x() if x is None else x), module


def plain(case: ModuleCase, module: nn.Module, x: Tensor) -> Tensor:
    """log10 ||dL/dx_t|| by torch.autograd on the untouched module, (batch, T); of the embedding for tokens."""
    leaves: list[Tensor] = []
    torch.set_default_dtype(torch.float64)
    try:
        if not case.ids:
            leaves.append(x.clone().requires_grad_())
            value = case.loss(module(leaves[0]))
        else:

            def opened(part: nn.Module, given: object, output: Tensor) -> Tensor:
                leaves.append(output.detach().requires_grad_())
                return leaves[0]

            handle = module.embed.register_forward_hook(opened)
            value = case.loss(module(x))
            handle.remove()
    finally:
        torch.set_default_dtype(torch.float32)
    return torch.autograd.grad(value, leaves[0])[0].norm(dim=-1).log10()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_gradient_of_the_input_is_that_of_autograd(case: ModuleCase) -> None:
    trace, module = traced(case)
    found = trace.input_gradient(trace.cotangent(case.loss))
    expected = plain(case, module, case.x())
    assert torch.equal(found == -math.inf, expected == -math.inf)
    finite = expected > -math.inf
    assert float((found - expected)[finite].abs().max()) < 1e-12


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_chain_equals_the_module_in_outputs_and_gradients(case: ModuleCase) -> None:
    trace, module = traced(case)
    check = trace.equality(trace.cotangent(case.loss))
    assert check.passed
    assert max(check.output, check.grad) < 1e-12
    assert check.against == type(module).__name__


@pytest.mark.parametrize("case", [case for case in CASES if case.joint], ids=str)
def test_the_joint_chain_carries_the_adjoint_to_the_first_state(case: ModuleCase) -> None:
    """dL/ds_0 = sum over t of (J_t ... J_1)^T (direct part of step t), multiplied out from the dense Jacobians."""
    trace, _ = traced(case)
    v = trace.cotangent(case.loss)
    adjoint = trace.adjoint(v)
    dense = trace.chain(0).dense(0, trace.length)[0]
    assert dense.shape == (9, trace.size, trace.size)
    joint = 10 ** adjoint.state[:, 0]
    last = joint[-1]
    assert float(joint[-2]) <= float(torch.linalg.matrix_norm(dense[-1], 2) * last + joint[-2])
    if isinstance(trace, LoopTrace):
        first, final, steps = trace.ends(0)
        assert float((through_product(trace.chain(0), final, steps) - first).norm()) < 1e-13 * float(first.norm())
        return
    model, x = trace.recurrence(0)
    states = torch.cat([layer.states[:, 0] for layer in model.run(x).layers], -1)
    # A chain of the very steps: a small change of s_0 moves s_T by the product of the Jacobians, cuts aside.
    if not model.cuts:
        product = torch.linalg.multi_dot(list(dense.flip(0)))
        start = [s + 1e-6 * torch.ones_like(s) for s in model.initial_states(1)]
        moved = type(model)(model.name, model.cells, start=start).run(x)
        change = torch.cat([layer.states[-1, 0] for layer in moved.layers], -1) - states[-1]
        assert torch.allclose(change / 1e-6, product.sum(-1), atol=1e-4)
    else:
        assert all(float(dense[step - 1].abs().max()) == 0 for step in model.cuts)


@pytest.mark.parametrize(
    "case", [case for case in CASES if not case.joint and case.name not in ("fed", "normed", "residual")], ids=str
)
def test_without_a_joint_state_the_reason_is_said(case: ModuleCase) -> None:
    trace, _ = traced(case)
    with pytest.raises(Unavailable) as reason:
        trace.chain(0)
    told = {
        "translator": "several recurrences (encoder, decoder)",
        "strided": "walks 5 steps of its own where the input has 9",
    }
    both = "bidirectional=True" in case.name or case.name.endswith("True")
    assert told.get(case.name, "bidirectional" if both else "packed") in str(reason.value)


def test_one_of_several_is_chosen_by_key() -> None:
    case = next(case for case in CASES if case.name == "residual")
    model = WholeModule("residual", case.module(), 3, kind="module", key="upper")
    trace = ModuleTrace(model, case.x())
    assert trace.joint.name == "upper"
    assert trace.chain(1).size == 6
    # Without a choice both layers are one state, also with a gradient of the user's own between them.
    assert choose_module_trace(WholeModule("residual", case.module(), 3, kind="module"), case.x()).chain(1).size == 9


def test_a_long_vanishing_loop_keeps_its_scale() -> None:
    """|dL/dx_1| = prod of the slopes, far below what float64 holds; here every step multiplies by 1/16."""
    loop = CellLoop(nn.RNNCell).double().eval()
    with torch.no_grad():
        for p in loop.parameters():
            p.zero_()
        loop.cell.weight_hh.copy_(torch.eye(5) / 16)
        loop.cell.weight_ih[:3].copy_(torch.eye(3))
    trace = ModuleTrace(WholeModule("loop", loop, 3, kind="module"), torch.zeros(1, 600, 3, dtype=torch.float64))
    v = trace.cotangent(lambda y: y[0, -1, 0])
    found = trace.input_gradient(v)[0]
    assert found.tolist() == pytest.approx([-(600 - t) * math.log10(16) for t in range(1, 601)], abs=1e-9)
    assert trace.anchors(v, 1) == (600,)


def test_time_first_modules_are_found_out() -> None:
    module = Wrapped(nn.GRU, "y", batch_first=False).double().eval()
    x = torch.randn(2, 9, 3, dtype=torch.float64)
    module(x)
    model = WholeModule("first", module.double(), 3, kind="module", time_first=None)
    trace = ModuleTrace(model, x)
    found = trace.input_gradient(trace.cotangent(lambda y: y[-1].sum()))
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(module(leaf.transpose(0, 1))[-1].sum(), leaf)
    assert model.time_first
    assert torch.allclose(found, expected.norm(dim=-1).log10(), atol=1e-12)


@pytest.mark.parametrize(
    "case", [CASES[0], *(case for case in CASES if case.name in ("fed", "own loop pair"))], ids=str
)
def test_the_module_is_left_as_it_was(case: ModuleCase) -> None:
    module = case.module()
    module.train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state, kind = torch.get_rng_state(), torch.get_default_dtype()
    trace = ModuleTrace(WholeModule("m", module, 3, kind="module", time_first=None), case.x())
    trace.equality(trace.cotangent(case.loss))
    assert module.training
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_default_dtype() == kind
    assert not any(part._forward_hooks for part in module.modules())


def test_an_altered_weight_fails_the_check() -> None:
    case = CASES[0]
    trace, _ = traced(case)
    v = trace.cotangent(case.loss)
    trace.seen.recurrences[0].cells[0][0].parameters["weight_hh"][0, 0] += 1e-6
    trace.seen.recurrences[0].__dict__.pop("levels", None)
    check = trace.equality(v)
    assert not check.passed
    assert check.output > 1e-10


def test_the_anchor_of_a_loss_without_steps_is_the_last_step() -> None:
    case = replace(CASES[0], make=Fed)
    trace, _ = traced(case)
    assert trace.anchors(trace.cotangent(case.loss), 3) == (9,)
    assert trace.anchors(trace.cotangent(lambda y: torch.zeros((), dtype=y.dtype)), 1) == ()


@pytest.mark.parametrize("make", [Fed, Normed, Strided])
def test_what_cannot_be_followed_is_still_measured(make: type[nn.Module]) -> None:
    case = ModuleCase(make.__name__, make)
    trace, _ = traced(case)
    v = trace.cotangent(case.loss)
    assert trace.profile(v, 9).shape == (2, 9)
    assert trace.kind == "recurrent"


@pytest.mark.parametrize("cut", [2, 7])
@pytest.mark.parametrize("kind", ["GRU", "RNN", "LSTM"])
def test_recurrences_one_after_the_other_are_not_the_state_of_the_last_step(kind: str, cut: int) -> None:
    class Halves(nn.Module):
        """Question and context, or the two halves of a pair, in one sequence."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = (getattr(nn, kind)(3, 5, batch_first=True) for _ in range(2))
            self.head = nn.Linear(10, 2)

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.first(x[:, :cut])[0], self.second(x[:, cut:])[0]
            return self.head(torch.cat([a[:, -1], b[:, -1]], -1))

    torch.manual_seed(0)
    found = analyze(Halves(), torch.randn(2, 10, 3)).models[0]
    # The state of step 10 is (a, b), which has lost no direction; a Jacobian onto the two outputs is of rank 2.
    assert found.summary.rank_lost_at is None
    assert found.summary.directions is None
    assert "several recurrences (first, second)" in found.skipped["directions"]

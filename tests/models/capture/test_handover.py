"""What is followed as one recurrence, what is not, and why; either way the gradient is that of autograd."""

from __future__ import annotations

import math
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from gradscope.models.fused_recurrence import run_opened
from gradscope.models.whole_module import WholeModule
from gradscope.numerics.loop_trace import LoopTrace
from gradscope.numerics.module_trace import ModuleTrace
from gradscope.numerics.pick_trace import choose_module_trace
from gradscope.numerics.trace import Unavailable
from wild import WILD, Keeping, Loop, Wild, same

X = torch.randn(2, 9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def loss(output: Tensor) -> Tensor:
    return output.square().sum()


def traced(case: Wild) -> ModuleTrace:
    module = case.module()
    torch.manual_seed(8)
    return choose_module_trace(WholeModule(case.name, module, 3, kind="module"), X)


def plain(case: Wild) -> Tensor:
    """log10 ||dL/dx_t|| by torch.autograd on the module by itself, with the random numbers of `traced`."""
    module, leaf, before = case.module(), X.clone().requires_grad_(), torch.get_default_dtype()
    torch.manual_seed(8)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.compiler.set_stance("force_eager") if "compiled" in case.name else nullcontext():
            value = loss(module(leaf.clone()))
    finally:
        torch.set_default_dtype(before)
    return torch.autograd.grad(value, leaf)[0].norm(dim=-1).log10()


@pytest.mark.parametrize("case", WILD, ids=str)
def test_the_gradient_of_the_input_is_that_of_autograd(case: Wild) -> None:
    if case.name == "counting":
        pytest.skip("it returns something else at every call")
    trace = traced(case)
    found, expected = trace.input_gradient(trace.cotangent(loss)), plain(case)
    assert torch.equal(found == -math.inf, expected == -math.inf)
    finite = expected > -math.inf
    # A normed state loses digits of its own: the part along the mean cancels.
    assert float((found - expected)[finite].abs().max()) < (1e-10 if case.name == "own step" else 1e-12)


@pytest.mark.parametrize("case", WILD, ids=str)
def test_a_recurrence_is_followed_only_where_its_state_is_handed_on_whole(case: Wild) -> None:
    trace = traced(case)
    assert isinstance(trace, LoopTrace) == (case.size > 0 or case.name == "attending")
    if case.size:
        # Two parts that begin as one tensor of zeros are told apart from the first step on.
        assert (trace.chain(0).begins + trace.chain(0).length, trace.chain(0).size) == (9, case.size)
    else:
        assert tuple(one.name for one in trace.seen.recurrences) == case.followed
    if case.followed or case.size:
        assert trace.equality(trace.cotangent(loss)).passed
    if case.why:
        with pytest.raises(Unavailable) as reason:
            trace.chain(0)
        assert case.why in str(reason.value)
    else:
        assert trace.chain(0).begins + trace.chain(0).length == 9


def test_a_cut_is_seen_at_its_step() -> None:
    assert traced(next(case for case in WILD if case.name == "cut")).joint.cuts == (5,)
    assert traced(next(case for case in WILD if case.name == "both cut")).joint.cuts == tuple(range(2, 10))


def test_a_recurrence_that_turns_nan_is_still_one() -> None:
    module = Loop(same).double().eval()
    x = X.clone()
    x[:, 4] = math.nan
    seen = run_opened(WholeModule("loop", module, 3, kind="module"), x)
    assert [one.name for one in seen.recurrences] == ["cell"]
    assert len(seen.recurrences[0].x) == 9


def test_what_a_module_keeps_between_calls_is_put_back() -> None:
    module = Keeping().double().eval()
    trace = ModuleTrace(WholeModule("keeping", module, 3, kind="module"), X)
    trace.equality(trace.cotangent(loss))
    assert module.last is None
    assert float(module.calls) == 0

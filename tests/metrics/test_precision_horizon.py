"""Predicted horizons against what torch really loses when it runs in the type."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from torch import Tensor, nn

from gradscope.chain import ArrayChain
from gradscope.loading.user_module import from_torch
from gradscope.metrics import precision_horizon
from gradscope.models.rnn import RNNCell
from gradscope.models.stack import Recurrent
from gradscope.models.user_step import CustomCell
from gradscope.models.whole_module import WholeModule
from gradscope.numerics.analysis import Analysis, Run
from gradscope.numerics.trace import Unavailable
from gradscope.records import RunSpec

KINDS = {"rnn": nn.RNN, "lstm": nn.LSTM}


def analysis_of(model, x: Tensor, loss, **spec) -> Analysis:
    return Analysis((Run(model, x, loss),), RunSpec(**spec))


def horizon(module: nn.RNNBase, x: Tensor, readout: Tensor) -> dict:
    model = from_torch(copy.deepcopy(module).double(), "m")
    return precision_horizon.measure(analysis_of(model, x, lambda y: (y[:, -1] @ readout).sum()))


def first_lag(module: nn.RNNBase, x: Tensor, readout: Tensor, dtype: torch.dtype, lost) -> int:
    """The first lag at which dL/dh of a step-by-step run in `dtype` is lost."""
    module, x, readout = module.to(dtype), x.to(dtype), readout.to(dtype)
    held, hidden = None, []
    for step in x.split(1, 1):
        held = module(step, held)[1]
        hidden.append(held[0] if isinstance(held, tuple) else held)
    found = torch.autograd.grad((hidden[-1][0] @ readout).sum(), hidden)
    return next(lag for lag, gradient in enumerate(reversed(found)) if lost(gradient))


def model_and_data(kind: str, hidden: int, length: int, seed: int) -> tuple[nn.RNNBase, Tensor, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = KINDS[kind](4, hidden, batch_first=True, dtype=torch.float64)
        x, readout = torch.randn(1, length, 4, dtype=torch.float64), torch.randn(hidden, dtype=torch.float64)
    return module, x, readout / readout.norm()


# The norm is the largest element times sqrt(hidden) at most, and a product of subnormals loses some bits more: under a
# decade together, 3 to 5 lags here. Bfloat16 instructions of a CPU flush subnormals: two decades more, 11 lags of lstm.
@pytest.mark.parametrize(
    ("kind", "hidden", "length", "dtype", "tolerance"),
    [
        ("rnn", 64, 200, torch.float32, 4),
        ("lstm", 32, 250, torch.float32, 5),
        ("rnn", 8, 140, torch.bfloat16, 8),
        ("lstm", 8, 280, torch.bfloat16, 19),
        ("rnn", 8, 40, torch.float16, 4),
        ("lstm", 8, 60, torch.float16, 5),
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", [1, 2])
def test_underflow_is_where_a_run_in_the_type_reaches_zero(kind, hidden, length, dtype, tolerance, seed) -> None:
    module, x, readout = model_and_data(kind, hidden, length, seed)
    predicted = horizon(module, x, readout)[str(dtype)[6:]]["underflow"]
    zero = first_lag(module, x, readout, dtype, lambda g: not g.any())
    assert abs(predicted + 1 - zero) <= tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_overflow_is_where_a_run_in_the_type_reaches_infinity(dtype) -> None:
    module, x, readout = model_and_data("rnn", 16, 200, 0)
    with torch.no_grad():
        # Zero input and no bias: the state rests at zero, where tanh has slope one, and only the gradient grows.
        for name, weight in module.named_parameters():
            weight.mul_(7.0 if name == "weight_hh_l0" else 0.0)
    predicted = horizon(module, torch.zeros_like(x), readout)[str(dtype)[6:]]["overflow"]
    infinite = first_lag(module, torch.zeros_like(x), readout, dtype, lambda g: not g.isfinite().all())
    assert abs(predicted + 1 - infinite) <= 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_share_is_where_older_steps_stop_changing_the_weight_gradient(dtype) -> None:
    module = nn.RNN(1, 1, nonlinearity="relu", bias=False, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        module.weight_ih_l0.fill_(1.0)
        module.weight_hh_l0.fill_(0.5)
    x = torch.ones(1, 60, 1, dtype=torch.float64)
    predicted = horizon(module, x, torch.ones(1, dtype=torch.float64))[str(dtype)[6:]]
    low, narrow = module.to(dtype), x.to(dtype)

    def gradients(lags: int) -> list[Tensor]:
        """dL/dW of a run whose state is cut off before the newest `lags` + 1 steps."""
        held = low(narrow[:, : 59 - lags])[1].detach()
        for step in narrow[:, 59 - lags :].split(1, 1):
            held = low(step, held)[1]
        return list(torch.autograd.grad(held.sum(), list(low.parameters())))

    whole = gradients(58)
    same = [all(map(torch.equal, gradients(lags), whole)) for lags in range(59)]
    # Rounding to nearest loses what is under half an epsilon of a number just below a power of two: a quarter of
    # epsilon of the sum, two lags at a decay of 1/2, and one for the two weights whose norms are taken together.
    assert predicted["share"] <= same.index(True) <= predicted["share"] + 3
    assert predicted["lag"] == predicted["share"]


def test_closed_form_of_a_scalar_recurrence() -> None:
    one = torch.ones(1, 1, dtype=torch.float64)
    model = Recurrent("scalar", [RNNCell("l0", {"weight_ih": one, "weight_hh": 0.5 * one}, "linear")])
    x = torch.zeros(1, 200, 1, dtype=torch.float64)
    x[:, 0] = 1.0
    found = precision_horizon.measure(analysis_of(model, x, lambda y: y[:, -1].sum()))
    # dL/ds at lag k is 2^-k; the smallest subnormals are 2^-149, 2^-133 and 2^-24.
    assert {name: end["underflow"] for name, end in found.items()} == {"float32": 149, "bfloat16": 133, "float16": 24}
    assert all(end["overflow"] is None and end["loss_scale"] == 1.0 for end in found.values())
    # With an impulse at the first step every later step's part is the same 2^-198: W_hh's (1/2)^k (1/2)^(198-k).
    # The first, which drives W_ih, is twice as large. Nothing falls.
    assert all(end["share"] is None for end in found.values())
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_gated_path_never_reaches_zero_but_says_nothing_beyond_the_horizon() -> None:
    # 0.9 times the smallest subnormal rounds back to it: a run in float16 sticks at 4 * 2^-24 for ever.
    a = torch.tensor(1.0, dtype=torch.float16)
    for _ in range(300):
        a = a * torch.tensor(0.9, dtype=torch.float16)
    assert float(a) == 4 * 2.0**-24
    one = torch.ones(1, 1, dtype=torch.float64)
    model = Recurrent("scalar", [RNNCell("l0", {"weight_ih": one, "weight_hh": 0.9 * one}, "linear")])
    x = torch.ones(1, 300, 1, dtype=torch.float64)
    found = precision_horizon.measure(analysis_of(model, x, lambda y: y[:, -1].sum()))["float16"]
    # 24 ln 2 / -ln 0.9 = 157.9
    assert found["underflow"] == 157


def test_the_verdict_does_not_depend_on_a_loss_at_every_step() -> None:
    module, x, readout = model_and_data("rnn", 8, 150, 1)
    model = from_torch(copy.deepcopy(module).double(), "m")
    final = precision_horizon.measure(analysis_of(model, x, lambda y: (y[:, -1] @ readout).sum()))
    every = precision_horizon.measure(analysis_of(model, x, lambda y: (y @ readout).sum()))
    assert every == final
    assert final["float32"]["underflow"] is not None


def test_zeros_of_the_model_are_not_those_of_the_type() -> None:
    def detaching(x: Tensor, s: Tensor) -> Tensor:
        keep = (x[:, :1] < 5).to(s.dtype)
        return 0.9 * (keep * s + (1 - keep) * s.detach()) + x

    x = torch.zeros(1, 30, 2, dtype=torch.float64)
    x[:, 20] = 9.0
    model = Recurrent("cut", [CustomCell("cell", detaching, torch.zeros(2, dtype=torch.float64), 2)])
    found = precision_horizon.measure(analysis_of(model, x, lambda y: y[:, -1].sum()))
    assert {end["lag"] for end in found.values()} == {None}


def test_models_without_a_state_have_a_range_and_no_share() -> None:
    class Fading(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * torch.tensor(0.1, dtype=x.dtype) ** torch.arange(29, -1, -1)[:, None]).cumsum(1)

    x = torch.ones(1, 30, 1, dtype=torch.float64)
    found = precision_horizon.measure(analysis_of(WholeModule("fading", Fading(), 1), x, lambda y: y[:, -1].sum()))
    assert found["float16"] == {"lag": 7, "underflow": 7, "overflow": None, "share": None, "loss_scale": 1.0}
    assert found["float32"]["lag"] is None
    chain = ArrayChain(0.5 * torch.eye(2, dtype=torch.float64).expand(40, 2, 2))
    found = precision_horizon.measure(analysis_of(chain, torch.zeros(1, 40, 0), lambda y: y.sum()))
    assert found["float16"]["underflow"] == 24


def test_what_cannot_be_measured_says_why() -> None:
    module, x, _ = model_and_data("rnn", 4, 10, 0)
    model = from_torch(copy.deepcopy(module).double(), "m")
    with pytest.raises(Unavailable, match="does not depend on any output"):
        precision_horizon.measure(analysis_of(model, x, lambda y: y.new_zeros(())))
    x[0, 3, 0] = math.nan
    with pytest.raises(Unavailable, match="not finite from step 4"):
        precision_horizon.measure(analysis_of(model, x, lambda y: y[:, -1].sum()))

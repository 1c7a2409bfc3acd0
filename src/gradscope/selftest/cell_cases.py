"""Recurrent cells whose Jacobians can be written down, and the small models that cases are built from."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from gradscope.models.family import family_model
from gradscope.models.lru import LRUCell
from gradscope.models.lstm import LSTMCell
from gradscope.models.rnn import RNNCell
from gradscope.models.stack import Recurrent, StackRun
from gradscope.models.user_step import CustomCell, Step
from gradscope.models.whole_module import WholeModule
from gradscope.numerics.adjoint import backpropagate
from gradscope.numerics.lyapunov import lyapunov
from gradscope.numerics.products import jacobian_sigma, sweep_products
from gradscope.selftest.case import Case, Measurement, compared

RECURRENT = ("rnn", "gru", "lstm", "lru")
"""The families with a state; a test holds this list against the registry."""
FEATURES = 3


def real(values: list[float] | list[list[float]]) -> Tensor:
    """Numbers in double precision."""
    return torch.tensor(values, dtype=torch.float64)


def map_of(step: Step, start: list[float]) -> Recurrent:
    """A map s -> step(x, s) without input, as a user's own cell."""
    return Recurrent("map", [CustomCell("map", step, real(start), 0)])


def henon() -> Recurrent:
    """The Henon map with a = 1.4, b = 0.3 from (.1, .1)."""

    def step(x: Tensor, s: Tensor) -> Tensor:
        return torch.stack([1 - 1.4 * s[:, 0] ** 2 + s[:, 1], 0.3 * s[:, 0]], -1)

    return map_of(step, [0.1, 0.1])


def elman(weight_hh: list[list[float]], nonlinearity: str, weight_ih: Tensor | None = None) -> Recurrent:
    """An RNN without bias whose input, if no weights are given for it, is one feature that it ignores."""
    hidden = real(weight_hh)
    given = hidden.new_zeros(len(hidden), 1) if weight_ih is None else weight_ih
    return Recurrent("rnn", [RNNCell("l0", {"weight_ih": given, "weight_hh": hidden}, nonlinearity)])


def family(name: str, **options: object) -> Recurrent | WholeModule:
    """A family with fresh weights from seed 0, for `FEATURES` features in double precision."""
    given = {key: str(value) for key, value in options.items()}
    return family_model(name, given, name, {}).build(input_size=FEATURES, seed=0, dtype=torch.float64)


def stacked(name: str, hidden: int = 5, layers: int = 2) -> Recurrent:
    """Two layers of a family in `RECURRENT`.

    Raises:
        TypeError: the family has no state.
    """
    model = family(name, hidden=hidden, layers=layers)
    if not isinstance(model, Recurrent):
        raise TypeError(f"{name} has no state")
    return model


def noise(*shape: int, seed: int = 1) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def silence(steps: int, features: int = 1) -> Tensor:
    """One sequence of zeros, (1, steps, features)."""
    return torch.zeros(1, steps, features, dtype=torch.float64)


def joint_step(model: Recurrent, x: Tensor, s: Tensor) -> Tensor:
    """One step of all layers on the joint state, (batch, size) -> (batch, size), through the cells' `step` alone."""
    parts, flow = list(torch.split(s, [cell.state_size for cell in model.cells], -1)), x
    for index, cell in enumerate(model.cells):
        parts[index] = cell.step(flow, parts[index])
        flow = cell.output(flow, parts[index])
    return torch.cat(parts, -1)


def joint_states(model: Recurrent, x: Tensor) -> list[Tensor]:
    """s_0 .. s_{T-1} of one sequence x (1, T, features), each (1, size)."""
    states = [torch.cat(model.initial_states(1), -1)]
    for step in x.unbind(1)[:-1]:
        states.append(joint_step(model, step, states[-1]))
    return states


def ln_adjoint(run: StackRun, v: Tensor) -> Tensor:
    """Natural log of ||dL/ds_0|| for L = <v, y_T>, v (batch, features)."""
    cotangent = torch.zeros_like(run.output)
    cotangent[:, -1] = v
    return backpropagate(run, cotangent).state[0] * math.log(10)


def resting_tanh() -> Measurement:
    """A tanh RNN without input stays at 0, where J = W: exponents ln 0.8 and ln 0.3, the eigenvalues of W."""
    run = elman([[0.7, 0.4], [0.1, 0.4]], "tanh").run(silence(200))
    found = lyapunov(run).log_growth[100:].mean(0)
    exact = [-0.22314355131420975577, -1.2039728043259359926, 0.0]
    return compared([*found.tolist(), float(run.output.abs().max())], exact, 1e-12, "ln |eigenvalues of W|; state 0")


def saturated_tanh() -> Measurement:
    """The slope at z = 50 is 1/cosh^2(50) = 1.5e-43, where 1 - tanh^2 is zero."""
    weights = {"weight_ih": real([[0.0]]), "weight_hh": real([[1.0]]), "bias_ih": real([50.0]), "bias_hh": real([0.0])}
    run = Recurrent("rnn", [RNNCell("l0", weights)]).run(silence(1))
    return compared(jacobian_sigma(run), -98.613705638880109381, 1e-12, "ln(1/cosh^2 50), mpmath")


def constant_gate(bias: float, exact: float) -> Measurement:
    """An LSTM whose recurrent weights are zero forgets by sigmoid(b); its h carries nothing on, not even rounding."""
    size = 3
    weights = {
        "weight_ih": real([[0.0]] * 4 * size),
        "weight_hh": real([[0.0] * size] * 4 * size),
        "bias_ih": real([0.0] * size + [bias] * size + [0.0] * 2 * size),
        "bias_hh": real([0.0] * 4 * size),
    }
    run = Recurrent("lstm", [LSTMCell("l0", weights)]).run(silence(100))
    return compared(lyapunov(run).mean, [exact] * size + [-math.inf] * size, 1e-12, "ln sigmoid(b), mpmath")


def diagonal_ssm() -> Measurement:
    """A linear recurrent unit with |lambda| = e^-0.02 and e^-0.1, each a pair of real directions."""
    weights = {
        "nu": real([0.1, 0.02]).log(),
        "theta": real([1.0, 0.3]).log(),
        "b": real([[0.0]] * 4),
        "c": real([[1.0, 0.0, 0.0, 0.0]]),
        "d": real([[0.0]]),
    }
    run = Recurrent("lru", [LRUCell("l0", weights)]).run(silence(300))
    return compared(lyapunov(run).mean, [-0.02, -0.02, -0.1, -0.1], 1e-12, "ln |lambda|")


def one_unit(weight: float, steps: int, exact: float) -> Measurement:
    """h_t = tanh(w h_{t-1} + u_t) driven so that h_t = 1/2 always: dh_T/dh_0 = (w (1 - h^2))^T = (3w/4)^T.

    Measured twice: by the backward pass, and by the product of Jacobians.
    """
    x = silence(steps)
    x[:, 0], x[:, 1:] = 0.54930614433405484570, 0.54930614433405484570 - weight / 2  # artanh(1/2)
    run = elman([[weight]], "tanh", real([[1.0]])).run(x)
    product = float(sweep_products(run).log10_norm[0]) * math.log(10)
    found = [float(ln_adjoint(run, real([[1.0]]))), product]
    return compared(found, [exact, exact], 1e-10, "Pascanu et al. 2013, T ln(3w/4)")


def long_decay() -> Measurement:
    """0.9^5000, 1e-229."""
    run = elman([[0.9]], "linear").run(silence(5000))
    return compared(ln_adjoint(run, real([[1.0]])), -526.80257828913150614, 1e-12, "5000 ln 0.9")


def long_gains(steps: int) -> Measurement:
    """Gains of 0.5 and 2 over very many steps, in two sequences of one batch."""
    run = elman([[0.5, 0.0], [0.0, 2.0]], "linear").run(silence(steps).expand(2, -1, -1))
    ln = steps * 0.69314718055994530942
    return compared(ln_adjoint(run, torch.eye(2, dtype=torch.float64)), [-ln, ln], 1e-12, "T ln 2")


CELLS = (
    Case("zero-input tanh RNN", resting_tanh),
    Case("saturated tanh, z=50", saturated_tanh),
    Case("LSTM, forget gate sigmoid(1)", partial(constant_gate, 1.0, -0.31326168751822283405)),
    Case("LSTM, forget gate sigmoid(6)", partial(constant_gate, 6.0, -0.0024756851377304495309)),
    Case("diagonal SSM (lru)", diagonal_ssm),
    Case("one tanh unit, w=1.2, T=200", partial(one_unit, 1.2, 200, -21.072103131565260246)),
    Case("one tanh unit, w=2, T=20", partial(one_unit, 2.0, 20, 8.1093021621632876396)),
    Case("adjoint of 0.9^5000", long_decay),
    Case("adjoint, gains 1/2 and 2", partial(long_gains, 5000), full=partial(long_gains, 200_000)),
)

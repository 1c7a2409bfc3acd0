"""Recurrent cells whose Jacobians can be written down, and adjoints far outside the range of double precision."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from gradscope.models.lru import LRUCell
from gradscope.models.lstm import LSTMCell
from gradscope.models.recurrent import Recurrent, Trajectory
from gradscope.models.rnn import RNNCell
from gradscope.numerics.gradients.adjoint import backpropagate
from gradscope.numerics.spectra.exponents import lyapunov
from gradscope.numerics.spectra.products import jacobian_sigma, sweep_products
from gradscope.selftest.case import Case, Measurement, compared
from gradscope.selftest.models import elman, real, silence


def ln_adjoint(run: Trajectory, v: Tensor) -> Tensor:
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


CASES = (
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

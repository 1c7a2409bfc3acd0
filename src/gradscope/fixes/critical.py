"""Critical initialisation (Schoenholz et al. 2017; Gilboa et al. 2019): no step shrinks a typical perturbation.

The mean-field condition is that the mean squared singular value of one step's Jacobian, chi, is 1. Here it is solved
for on the data at hand: by the gain of W_hh for an Elman network; by the bias of the gate that keeps the old state for
a GRU or an LSTM (of which the cell's own block counts), where chi only tends to 1, so that what is asked is a half-life
of the needed lag: chi^K = 1/4.
"""

from __future__ import annotations

import math

import torch

from gradscope.chain import JacobianChain
from gradscope.fixes.gate_biases import LINES
from gradscope.fixes.layer import Change, Layer
from gradscope.fixes.layers import changed
from gradscope.fixes.remedy import Patient, Remedy, Treated
from gradscope.fixes.solve import LOG_GAINS, crossing, scaled
from gradscope.models.lstm import LSTMCell
from gradscope.models.recurrent import Recurrent

BIASES = (-2.0, 16.0)
HALVINGS = 12
LONGEST = 50
"""Steps of the sequence over which chi is averaged."""
FORMED = 256
"""Numbers of a state up to which Jacobians are formed."""
PROBES = 32


def apply(patient: Patient) -> Treated | None:
    """Bisection; None for stacks, and where chi never comes to the value asked for."""
    model = patient.model
    if not isinstance(model, Recurrent) or len(model.cells) > 1:
        return None
    if hasattr(model.cells[0], "nonlinearity"):
        log_gain = crossing(lambda log_gain: _log_chi(patient, scaled(log_gain)), LOG_GAINS, 0.0, HALVINGS)
        if log_gain is None:
            return None
        gain = math.exp(log_gain)
        return _treated(patient, f"W_hh × {gain:.3g} (χ = 1)", scaled(log_gain), f'weights["weight_hh"].mul_({gain!r})')
    if changed(model, _biased(0.0)) is None:
        return None
    wanted = -math.log(4) / max(patient.lag, 1)
    bias = crossing(lambda bias: _log_chi(patient, _biased(bias)), BIASES, wanted, HALVINGS)
    if bias is None:
        return None
    return _treated(patient, f"gate bias {bias:.3g} (χ solved)", _biased(bias), f"bias = {bias!r}{LINES}")


def _treated(patient: Patient, said: str, change: Change, code: str) -> Treated | None:
    found = changed(patient.model, change)
    return None if found is None else Treated(said, found.model, found.code(code), found.weights)


def _biased(bias: float) -> Change:
    def change(layer: Layer) -> bool:
        if not layer.is_gated:
            return False
        layer.set_bias(1, bias)
        return True

    return change


def _log_chi(patient: Patient, change: Change) -> float:
    """Ln of the mean squared singular value of a step of the first sequence."""
    made = changed(patient.model, change)
    assert made is not None
    assert isinstance(made.model, Recurrent)
    x, cell = patient.x[:1, :LONGEST], made.model.cells[0]
    chain, first = made.model.run(x), cell.output_size if isinstance(cell, LSTMCell) else 0
    if chain.size <= FORMED:
        jacobians = chain.dense(0, chain.length)[0, :, first:, first:].double()
        total = float(jacobians.square().sum((1, 2)).mean())
    else:
        total = _squared_norm(chain, first)
    return math.log(max(total / (chain.size - first), 1e-300))


def _squared_norm(chain: JacobianChain, first: int) -> float:
    """Mean of ||J||_F^2 over steps, of the block from unit `first` on, without forming a Jacobian.

    It is the mean of ||J z||^2 over vectors z of random signs (Hutchinson 1990).
    """
    signs = torch.randint(2, (chain.batch, chain.size, PROBES), generator=torch.Generator().manual_seed(0)) * 2 - 1
    signs[:, :first] = 0
    z = signs.to(chain.like)
    squares = [float(chain.matmat(t, z)[0, first:].double().square().sum()) for t in range(1, chain.length + 1)]
    return math.fsum(squares) / (PROBES * chain.length)


REMEDY = Remedy("critical", "a step leaves the size of a typical perturbation as it is", apply)

"""Remedies whose one number is solved for on the user's data: a gain, a bias, a window, a clipping limit."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from gradscope.chain import JacobianChain
from gradscope.errors import UsageError
from gradscope.fixes.initial_weights import LINES
from gradscope.fixes.layer_edit import changed
from gradscope.fixes.remedy import Change, Layer, Remedy, RemedyInput, RemedyResult, of_first_steps
from gradscope.models.cell import Cell
from gradscope.models.lstm import LSTMCell
from gradscope.models.rnn import RNNCell
from gradscope.models.stack import Recurrent
from gradscope.models.user_step import CustomCell
from gradscope.numerics.lyapunov import lyapunov
from gradscope.numerics.pick_trace import choose_module_trace
from gradscope.numerics.trace import Unavailable
from gradscope.probe.copies import copies_of

LOG_GAINS = (math.log(0.125), math.log(16.0))
"""Gains of a recurrent matrix between which one is looked for, ln."""
LOOKS = 16
"""Parts of the interval that are looked at where the ends do not tell: neighbouring gains differ by a third."""


def crossing(value: Callable[[float], float], ends: tuple[float, float], wanted: float, halvings: int) -> float | None:
    """Where between the ends `value` passes `wanted` from below; None where it does not.

    By bisection between the ends, or where it is on one side at both (a squashing nonlinearity saturates, and the
    exponent falls again), between the first two neighbours of a grid that lie on both sides.
    """
    low, high = ends
    if not value(low) < wanted < value(high):
        places = [low + (high - low) * place / LOOKS for place in range(LOOKS + 1)]
        known = [value(place) for place in places]
        pairs = zip(pairwise(places), pairwise(known), strict=True)
        between = next((place for place, (a, b) in pairs if a < wanted < b), None)
        if between is None:
            return None
        low, high = between
        # As fine as by bisection from the ends.
        halvings = max(1, halvings - round(math.log2(LOOKS)))
    for _ in range(halvings):
        middle = (low + high) / 2
        low, high = (middle, high) if value(middle) < wanted else (low, middle)
    return (low + high) / 2


def scaled(log_gain: float) -> Change:
    """Multiplies W_hh."""

    def change(layer: Layer) -> bool:
        return layer.scale(math.exp(log_gain))

    return change


EXPONENT_HALVINGS = 8
EXPONENT_STEPS = 100
"""Steps of the sequence that the exponent is measured on."""


def unit_exponent(remedy_input: RemedyInput) -> RemedyResult | None:
    """The gain of W_hh solved so that the leading Lyapunov exponent on this data is 0: the edge of chaos, measured.

    Bisection on ln gain; None where the exponent has one sign between the ends.
    """
    if isinstance(remedy_input.model, Recurrent) and not all(map(_has_gain, remedy_input.model.cells)):
        return None
    if changed(remedy_input.model, scaled(LOG_GAINS[0]), remedy_input.x) is None:
        return None
    try:
        log_gain = crossing(lambda log_gain: _exponent(remedy_input, log_gain), LOG_GAINS, 0.0, EXPONENT_HALVINGS)
    except Unavailable:
        return None
    if log_gain is None:
        return None
    found, gain = changed(remedy_input.model, scaled(log_gain), remedy_input.x), math.exp(log_gain)
    assert found is not None
    code = found.code(f'weights["weight_hh"].mul_({gain!r})')
    return RemedyResult(f"W_hh × {gain:.3g}", found.model, code, found.weights)


def _has_gain(cell: Cell) -> bool:
    """Whether one gain is what there is to solve for: an Elman layer, or a step of the user's."""
    return isinstance(cell, RNNCell | CustomCell)


def _exponent(remedy_input: RemedyInput, log_gain: float) -> float:
    made, x = changed(remedy_input.model, scaled(log_gain), remedy_input.x), remedy_input.x[:1]
    assert made is not None
    model = made.model
    if isinstance(model, Recurrent):
        return float(lyapunov(model.run(x[:, :EXPONENT_STEPS]), 1).mean[0])
    trace = of_first_steps(lambda given: choose_module_trace(model, given), x, EXPONENT_STEPS)
    return float(lyapunov(trace.chain(0), 1).mean[0])


UNIT_EXPONENT = Remedy("unit exponent", "perturbations neither die out nor grow on this data", unit_exponent)


BIASES = (-2.0, 16.0)
CHI_HALVINGS = 12
CHI_STEPS = 50
"""Steps of the sequence over which chi is averaged."""
FORMED = 256
"""Numbers of a state up to which Jacobians are formed."""
PROBES = 32


def critical(remedy_input: RemedyInput) -> RemedyResult | None:
    """Critical initialisation (Schoenholz et al. 2017; Gilboa et al. 2019): no step shrinks a typical perturbation.

    The mean-field condition is that the mean squared singular value of one step's Jacobian, chi, is 1. Here it is
    solved for on the data at hand: by the gain of W_hh for an Elman network; by the bias of the gate that keeps the
    old state for a GRU or an LSTM (of which the cell's own block counts), where chi only tends to 1, so that what is
    asked is a half-life of the needed lag: chi^K = 1/4.

    Bisection; None for stacks, and where chi never comes to the value asked for.
    """
    model = remedy_input.model
    if not isinstance(model, Recurrent) or len(model.cells) > 1:
        return None
    if hasattr(model.cells[0], "nonlinearity"):
        log_gain = crossing(lambda log_gain: _log_chi(remedy_input, scaled(log_gain)), LOG_GAINS, 0.0, CHI_HALVINGS)
        if log_gain is None:
            return None
        gain = math.exp(log_gain)
        return _treated(
            remedy_input, f"W_hh × {gain:.3g} (χ = 1)", scaled(log_gain), f'weights["weight_hh"].mul_({gain!r})'
        )
    if changed(model, _biased(0.0)) is None:
        return None
    wanted = -math.log(4) / max(remedy_input.lag, 1)
    bias = crossing(lambda bias: _log_chi(remedy_input, _biased(bias)), BIASES, wanted, CHI_HALVINGS)
    if bias is None:
        return None
    return _treated(remedy_input, f"gate bias {bias:.3g} (χ solved)", _biased(bias), f"bias = {bias!r}{LINES}")


def _treated(remedy_input: RemedyInput, said: str, change: Change, code: str) -> RemedyResult | None:
    found = changed(remedy_input.model, change)
    return None if found is None else RemedyResult(said, found.model, found.code(code), found.weights)


def _biased(bias: float) -> Change:
    def change(layer: Layer) -> bool:
        if not layer.is_gated:
            return False
        layer.set_bias(1, bias)
        return True

    return change


def _log_chi(remedy_input: RemedyInput, change: Change) -> float:
    """Ln of the mean squared singular value of a step of the first sequence."""
    made = changed(remedy_input.model, change)
    assert made is not None
    assert isinstance(made.model, Recurrent)
    x, cell = remedy_input.x[:1, :CHI_STEPS], made.model.cells[0]
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


CRITICAL = Remedy("critical", "a step leaves the size of a typical perturbation as it is", critical)


def truncated(remedy_input: RemedyInput) -> RemedyResult | None:
    """Truncated BPTT over what chaos lets one predict (Mikhaeil et al. 2022): tau = ln 2 / lambda_1 steps.

    The gradient is cut every tau steps, counted from the newest; None where nothing grows or would be cut.
    """
    model, length = remedy_input.model, remedy_input.x.shape[1]
    if not isinstance(model, Recurrent) or model.cuts:
        return None
    exponent = float(lyapunov(model.run(remedy_input.x[:1]), 1).mean[0])
    window = max(1, round(math.log(2) / exponent)) if exponent > 0 else length
    if window >= length:
        return None
    # A cut at t keeps s_t from hearing of s_{t-1}: the newest window holds the last `window` states.
    cuts = tuple(range(length - window + 1, 1, -window))
    code = (
        f"# lambda_1 = {exponent:.4g} nats per step, so differences double every {window} steps. Windows end with the\n"
        "# sequence; the loss reads the last one.\n"
        "state = None\n"
        f"for stop in range(x.shape[1] % {window} or {window}, x.shape[1] + 1, {window}):\n"
        f"    output, state = rnn(x[:, max(0, stop - {window}) : stop], state)\n"
        "    if stop < x.shape[1]:\n"
        "        state = tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()\n"
    )
    return RemedyResult(
        f"BPTT over {window} steps", Recurrent(model.name, model.cells, start=model.start, cuts=cuts), code
    )


TRUNCATED = Remedy("truncated", "in chaos, gradients of older steps drown those of the newest", truncated)


QUANTILE = 0.9
UNEVEN = 3.0
"""How many times the median the largest norm must be for clipping to be worth anything."""


def clipped(remedy_input: RemedyInput) -> RemedyResult | None:
    """Clipping at a measured quantile of the gradient's norms (Pascanu et al. 2013), and what it costs in direction.

    Norms are those of single sequences; None where they are even, or cannot be had.
    """
    try:
        gradients = of_sequences(remedy_input)
    except UsageError:
        return None
    norms = torch.linalg.vector_norm(gradients, dim=1)
    middle = float(norms.median())
    if len(norms) < 2 or not bool(norms.isfinite().all()) or not 0 < UNEVEN * middle <= float(norms.max()):
        return None
    limit = float(norms.quantile(QUANTILE))
    clipped = gradients * (limit / norms.clamp_min(limit))[:, None]
    kept = float(torch.cosine_similarity(gradients.mean(0), clipped.mean(0), dim=0))
    said = f"clip at {limit:.3g}, cosine {kept:.3f}"
    code = (
        f"# The {QUANTILE:.0%} quantile of the norms of updates on one sequence each. A clipped update points where\n"
        f"# it did, but large ones count for less: the mean has a cosine of {kept:.4f} to the raw mean.\n"
        f"torch.nn.utils.clip_grad_norm_(model.parameters(), {limit:.4g})\n"
    )
    return RemedyResult(said, remedy_input.model, code, of_training=True)


def of_sequences(remedy_input: RemedyInput) -> Tensor:
    """dL/dW of every sequence by itself, (sequences, parameters)."""
    copies = copies_of([remedy_input.model], remedy_input.name)
    leaves = copies.leaves(0)
    output = copies.outputs(remedy_input.x.to(leaves[0])[None], [0])[0]
    (cotangent,) = torch.autograd.grad(remedy_input.loss(leaf := output.detach().requires_grad_()), leaf)
    found = []
    for row in range(len(output)):
        own = torch.zeros_like(cotangent)
        own[row] = cotangent[row]
        parts = torch.autograd.grad(output, leaves, own, retain_graph=True, allow_unused=True)
        found.append(torch.cat([part.flatten() for part in parts if part is not None]))
    return torch.stack(found).double()


CLIPPED = Remedy("clipped", "a few sequences with gradients far above the rest no longer decide the step", clipped)

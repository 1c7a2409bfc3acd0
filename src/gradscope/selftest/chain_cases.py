"""Chains with exactly known answers: products, exponents, derivatives against each other, influence."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from gradscope.chain import ArrayChain
from gradscope.metrics import influence, state_spectra
from gradscope.models.attention import AttentionLayer, Options
from gradscope.models.family import Draw
from gradscope.models.stack import Recurrent
from gradscope.models.whole_module import WholeModule
from gradscope.numerics.analysis import Analysis, Run
from gradscope.numerics.lyapunov import lyapunov
from gradscope.numerics.products import sweep_products
from gradscope.numerics.spectra import spectra
from gradscope.records import RunSpec
from gradscope.selftest.case import Case, Measurement, compared
from gradscope.selftest.cell_cases import (
    FEATURES,
    RECURRENT,
    elman,
    henon,
    joint_states,
    joint_step,
    map_of,
    noise,
    silence,
    stacked,
)
from gradscope.selftest.equality_cases import difference

MPMATH = "mpmath, 500 digits"


def ln_sigma(chain: ArrayChain) -> Tensor:
    """Natural logs of all singular values of J_T ... J_1; NaN where they are said to be unresolved."""
    (found,) = spectra(chain, [chain.length])
    return torch.where(found.resolved, found.ln_sigma, math.nan)


def of_power(rows: list[list[float]], steps: int, exact: list[float], source: str) -> Measurement:
    """Natural logs of the singular values of A^steps."""
    factors = torch.tensor(rows, dtype=torch.float64).repeat(steps, 1, 1)
    return compared(ln_sigma(ArrayChain(factors)), exact, 1e-10, source)


def varied() -> Measurement:
    """200 different 4x4 matrices in quarters, condition 1e92: the spectrum, and sigma_1 by the running product."""

    def entry(t: int, i: int, k: int) -> float:
        return ((t * t + 3 * t * i + 2 * i * k * t + 5 * k * k + i) % 13 - 6) / 4 + (2 if i == k else 0)

    rows = [[[entry(t, i, k) for k in range(4)] for i in range(4)] for t in range(200)]
    chain = ArrayChain(torch.tensor(rows, dtype=torch.float64))
    norm = float(sweep_products(chain).log10_norm[0]) * math.log(10)
    exact = [166.81106779815661816, 156.72766931698226922, 119.61439756236906414, -45.421120275352075993]
    return compared([*ln_sigma(chain).tolist(), norm], [*exact, exact[0]], 1e-10, MPMATH)


def henon_product() -> Measurement:
    """The Henon map from (.1, .1) after 20 steps: ln of 1982.85493616100652 and 1.75846671252247e-14."""
    chain = ArrayChain(henon().run(torch.zeros(1, 20, 0, dtype=torch.float64)).dense(0, 20))
    return compared(ln_sigma(chain), [7.5922929721177624738, -31.671749058636482326], 1e-10, MPMATH)


def handed_over() -> Measurement:
    """160 units that do not mix: sigma_1 at lags 20 and 40, where another unit leads; the rest is 0.8 to 0.9."""
    slopes = torch.linspace(0.8, 0.9, 160, dtype=torch.float64).repeat(40, 1)
    slopes[20:, 0], slopes[20:, 1] = 1.2, 0.9
    slopes[:20, 0], slopes[:20, 1] = 0.9, 1.3
    norms = sweep_products(ArrayChain(torch.diag_embed(slopes))).log10_norm * math.log(10)
    exact = [3.6464311358790925242, 3.1400749761932950162]
    return compared([float(norms[20]), float(norms[0])], exact, 1e-10, "20 ln 1.2 and 20 ln 1.17")


JORDAN = [[0.9, 1.0], [0.0, 0.9]]
SHEAR = [[1.0, 1.0], [0.0, 1.0]]
DIAGONAL = [[2.0, 0.0], [0.0, 0.5]]

_diagonal = partial(of_power, DIAGONAL, 2000, [1386.2943611198906188, -1386.2943611198906188], "2000 ln 2")
_jordan_1 = partial(of_power, JORDAN, 1, [0.42498208290935856175, -0.6357031142250111642], MPMATH)
_jordan_9 = partial(of_power, JORDAN, 9, [1.3641937003523159092, -3.2606829821931893313], MPMATH)
_jordan_1000 = partial(of_power, JORDAN, 1000, [-98.347399053187322022, -112.37363226246528043], MPMATH)
_shear_10 = partial(of_power, SHEAR, 10, [2.3124383412727526203, -2.3124383412727526203], "asinh(T/2)")
_shear_1000 = partial(of_power, SHEAR, 1000, [6.9077562789806370554, -6.9077562789806370554], "asinh(T/2)")

PRODUCTS = (
    Case("diag(2, 1/2), T=2000", _diagonal),
    Case("Jordan block .9, T=1", _jordan_1),
    Case("Jordan block .9, T=9", _jordan_9),
    Case("Jordan block .9, T=1000", _jordan_1000),
    Case("shear [[1,1],[0,1]], T=10", _shear_10),
    Case("shear [[1,1],[0,1]], T=1000", _shear_1000),
    Case("varied 4x4, T=200", varied),
    Case("Henon map, product of 20", henon_product),
    Case("units that do not mix, N=160", handed_over),
)


NEWMAN = [-0.13518142273073909, -0.32832860329068439, -0.63518142273073909, -1.3283286032906844]
"""1/2 [ln(2/N) + psi((N-i+1)/2)] for N = 4, by mpmath."""
NEWMAN_SPREAD = 1.1107
"""Deviation of one step's growth in the last direction, 1/2 sqrt(psi'(1/2)): the largest of the four."""


def scaled_orthogonal(gain: float, ln_gain: float) -> Measurement:
    """A linear recurrence with W = a Q, Q a product of reflections: all exponents are ln a."""
    mirror = noise(12, 3, seed=0)
    q = torch.eye(12, dtype=torch.float64)
    for v in mirror.T:
        q = q - 2 * torch.outer(v, v @ q) / (v @ v)
    model = elman((gain * q).tolist(), "linear")
    return compared(lyapunov(model.run(silence(300))).mean, [ln_gain] * 12, 1e-10, "ln a")


def henon_exponents(steps: int) -> Measurement:
    """0.419 and -1.623."""
    found = lyapunov(henon().run(silence(steps, 0))).mean
    return compared(found, [0.419, -1.623], 3e-3, "Sprott 2003, Chaos and Time-Series Analysis")


def henon_sum() -> Measurement:
    """As det J_t = -0.3 at every step, the exponents sum to ln 0.3."""
    found = lyapunov(henon().run(silence(1000, 0))).mean.sum()
    return compared(found, -1.2039728043259359926, 1e-12, "ln 0.3")


def cat_map() -> Measurement:
    """Arnold's cat map (2x + y, x + y) mod 1; the frame has settled after 30 steps."""

    def step(x: Tensor, s: Tensor) -> Tensor:
        return torch.stack([2 * s[:, 0] + s[:, 1], s[:, 0] + s[:, 1]], -1).remainder(1.0)

    found = lyapunov(map_of(step, [0.1, 0.2]).run(silence(100, 0))).log_growth[30:].mean(0)
    exact = 0.962423650119206895
    return compared(found, [exact, -exact], 1e-12, "ln((3 + sqrt 5)/2)")


def logistic() -> Measurement:
    """The map x -> 4 x (1 - x), exponent ln 2.

    As x' (1 - x') = 4 x (1 - x) (1 - 2x)^2, a sum of ln |4 - 8x| is T ln 2 and a term at either end; what the ends
    contribute is taken away.
    """

    def step(x: Tensor, s: Tensor) -> Tensor:
        return 4 * s * (1 - s)

    run = map_of(step, [0.1]).run(silence(1000, 0))
    first, last = (float(s) for s in run.layers[0].states[[0, -1], 0, 0])
    ends = 0.5 * (math.log(last * (1 - last)) - math.log(first * (1 - first)))
    found = float(lyapunov(run).mean) - ends / run.length
    return compared(found, 0.69314718055994530942, 1e-9, "ln 2")


def gaussian(steps: int) -> Measurement:
    """Products of independent 4x4 matrices with N(0, 1/4) entries; the tolerance is five standard errors."""
    chain = ArrayChain(noise(steps, 4, 4) / 2)
    tolerance = 5 * NEWMAN_SPREAD / math.sqrt(steps)
    return compared(lyapunov(chain).mean, NEWMAN, tolerance, "Newman 1986, mpmath for psi")


def determinant(name: str) -> Measurement:
    """The sum of a family's exponents and the mean ln |det J_t|, J_t by torch.autograd through the cells' steps."""
    model, x = stacked(name), noise(1, 12, 3)
    places = list(zip(joint_states(model, x), x.unbind(1), strict=True))
    jacobian: Callable[..., Tensor] = torch.autograd.functional.jacobian
    found = [jacobian(lambda s, x_t=x_t: joint_step(model, x_t, s).sum(0), s)[:, 0] for s, x_t in places]
    exact = torch.linalg.slogdet(torch.stack(found)).logabsdet.mean()
    return compared(lyapunov(model.run(x)).mean.sum(), exact, 1e-10, "ln |det| of J_t by torch.autograd")


EXPONENTS = (
    Case("scaled orthogonal, a=0.7", partial(scaled_orthogonal, 0.7, -0.35667494393873237891)),
    Case("scaled orthogonal, a=1.3", partial(scaled_orthogonal, 1.3, 0.26236426446749105204)),
    Case("Henon map, exponents", partial(henon_exponents, 12000), full=partial(henon_exponents, 100_000)),
    Case("Henon map, sum of exponents", henon_sum),
    Case("Arnold's cat map", cat_map),
    Case("logistic map, r=4", logistic),
    Case("iid Gaussian product (Newman)", partial(gaussian, 2000), full=partial(gaussian, 50000)),
    *(Case(f"sum of exponents, {name}", partial(determinant, name)) for name in RECURRENT),
)


STRIDE = 1e-5


def residual(name: str) -> Measurement:
    """dL/ds_0 by torch.autograd through two layers, and P_0^T dL/ds_T from the closed-form Jacobians."""
    found = state_spectra.chain_rule_residual(analysis_of(stacked(name), 40))
    return compared(found, 0.0, 1e-10, "dL/ds_0 by torch.autograd")


def finite_differences(name: str) -> Measurement:
    """Closed-form Jacobians of two layers, and central differences of their steps."""
    model, x = stacked(name), noise(1, 10, FEATURES)
    moves = STRIDE * torch.eye(model.state_size, dtype=torch.float64)
    wanted = []
    for s, x_t in zip(joint_states(model, x), x.unbind(1), strict=True):
        inputs = x_t.expand(len(moves), -1)
        ahead, behind = joint_step(model, inputs, s + moves), joint_step(model, inputs, s - moves)
        wanted.append((ahead - behind).T / (2 * STRIDE))
    found = model.run(x).dense(0, 10)[0]
    return compared(difference(found, torch.stack(wanted)), 0.0, 1e-7, "central differences of the step")


DERIVATIVES = (
    *(Case(f"chain rule, {name}", partial(residual, name)) for name in RECURRENT),
    *(Case(f"finite differences, {name}", partial(finite_differences, name)) for name in RECURRENT),
)


def analysis_of(model: Recurrent | WholeModule, steps: int) -> Analysis:
    """One random sequence, its loss the first output at the last step."""
    run = Run(model, noise(1, steps, model.input_size), lambda y: y[:, -1, 0].sum())
    return Analysis((run,), RunSpec())


def uniform_attention() -> Measurement:
    """With queries and keys of zero, every one of the 10 steps gets weight 1/10 and has that influence."""
    layer = AttentionLayer(Options(hidden=4, heads=2, positions="none"), 4, Draw(0, torch.float64, "cpu"))
    one = torch.eye(4, dtype=torch.float64)
    with torch.no_grad():
        layer.embedding.projection.weight.copy_(one)
        layer.attention.in_proj_weight.copy_(torch.cat([0 * one, 0 * one, one]))
        layer.attention.out_proj.weight.copy_(one)
    looked_at = analysis_of(WholeModule("attention", layer, 4, weights=layer.weights), 10)
    found = [*(10**looked_at.profile).tolist(), influence.temporal_range(looked_at), influence.coverage(looked_at)]
    return compared(found, [0.1] * 10 + [4.5, 1.0], 1e-12, "1/T; temporal range (T-1)/2; coverage 1")


def geometric_memory() -> Measurement:
    """h_t = 0.9 h_{t-1} + x_t over 100 steps: I(k) = 0.9^k and everything that is said about it."""
    looked_at = analysis_of(elman([[0.9, 0.0], [0.0, 0.9]], "linear", torch.eye(2, dtype=torch.float64)), 100)
    found = [
        influence.rate(looked_at),
        influence.gain(looked_at),
        influence.half_life(looked_at),
        influence.reach(looked_at),
        influence.temporal_range(looked_at),
        influence.gradient_share(looked_at),
        state_spectra.directions(looked_at),
        state_spectra.chain_rule_residual(looked_at),
    ]
    # ln 0.9; e^rate; ln 2/|rate|; 0.9^(reach-1) >= 1 %; sum k I/sum I; log10(I(99)/sum I); both directions alike.
    exact = [
        -0.10536051565782630123,
        0.9,
        6.5788134789605837831,
        44,
        8.9973437895585761883,
        -5.529980029884667096,
        2,
        0,
    ]
    return compared(found, exact, 1e-11, "I(k) = 0.9^k, mpmath")


INFLUENCE = (
    Case("uniform attention, T=10", uniform_attention),
    Case("linear memory 0.9^k, T=100", geometric_memory),
)

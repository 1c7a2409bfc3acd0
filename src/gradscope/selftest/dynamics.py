"""Lyapunov exponents of systems whose exponents are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from gradscope.chain import ArrayChain
from gradscope.numerics.spectra.exponents import lyapunov
from gradscope.selftest.case import Case, Measurement, compared
from gradscope.selftest.models import RECURRENT, elman, henon, joint_states, joint_step, map_of, noise, silence, stacked

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


CASES = (
    Case("scaled orthogonal, a=0.7", partial(scaled_orthogonal, 0.7, -0.35667494393873237891)),
    Case("scaled orthogonal, a=1.3", partial(scaled_orthogonal, 1.3, 0.26236426446749105204)),
    Case("Henon map, exponents", partial(henon_exponents, 12000), full=partial(henon_exponents, 100_000)),
    Case("Henon map, sum of exponents", henon_sum),
    Case("Arnold's cat map", cat_map),
    Case("logistic map, r=4", logistic),
    Case("iid Gaussian product (Newman)", partial(gaussian, 2000), full=partial(gaussian, 50000)),
    *(Case(f"sum of exponents, {name}", partial(determinant, name)) for name in RECURRENT),
)

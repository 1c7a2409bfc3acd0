"""Products of given matrices: every singular value, at lengths and conditions where a plain product fails."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from gradscope.chain import ArrayChain
from gradscope.numerics.spectra.products import sweep_products
from gradscope.numerics.spectra.spectrum import spectra
from gradscope.selftest.case import Case, Measurement, compared
from gradscope.selftest.models import henon

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

CASES = (
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

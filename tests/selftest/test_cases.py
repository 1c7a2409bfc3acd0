"""The table of cases: complete, and failing on code that is wrong (tests/cli sees it pass on the code as it is)."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gradscope.chain import ArrayChain
from gradscope.models.attention import SelfAttention
from gradscope.models.cell import pull_steps
from gradscope.models.family import family_model
from gradscope.models.gru import GRULinearization
from gradscope.models.lru import LRULinearization
from gradscope.models.lstm import LSTMCell, LSTMLinearization
from gradscope.models.rnn import SLOPE, RNNLinearization
from gradscope.models.stack import Recurrent
from gradscope.numerics.lyapunov import Exponents
from gradscope.numerics.spectra import Spectrum
from gradscope.registry import FAMILIES
from gradscope.selftest.cell_cases import RECURRENT
from gradscope.selftest.run_selftest import CASES, run

BY_NAME = {case.name: case for case in CASES}


def failures(*names: str) -> set[str]:
    return {outcome.name for outcome in run([BY_NAME[name] for name in names]) if not outcome.passed}


def test_names_are_unique_and_fit_their_column() -> None:
    assert len(BY_NAME) == len(CASES) == 45
    assert all(len(name) < 30 and name.isascii() for name in BY_NAME)


def test_every_family_with_a_state_is_covered() -> None:
    models = {name: family_model(name, {}, name, {}) for name in FAMILIES}
    built = {name: model.build(input_size=1, seed=0, dtype=torch.float64) for name, model in models.items()}
    assert {name for name, model in built.items() if isinstance(model, Recurrent)} == set(RECURRENT)
    assert all(any(case.name.startswith(f"{name} equals") for case in CASES) for name in FAMILIES)


def test_the_longer_variants_have_tighter_limits_or_longer_sequences() -> None:
    longer = {case.name for case in CASES if case.full is not None}
    assert longer == {"Henon map, exponents", "iid Gaussian product (Newman)", "adjoint, gains 1/2 and 2"}
    (brief,), (full,) = (run([BY_NAME["iid Gaussian product (Newman)"]], full) for full in (False, True))
    assert full.passed
    assert full.tolerance == pytest.approx(brief.tolerance / 5)


# --- mutants: (what is broken, how, the cases that must notice) ---


def transposed_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    def push(self, at, ds, dx=None):
        dz = ds @ self.cell.parameters["weight_hh"]
        return self.slope[at] * (dz if dx is None else dz + dx @ self.cell.parameters["weight_ih"].T)

    monkeypatch.setattr(RNNLinearization, "push", push)


def dropped_slope(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SLOPE, "tanh", torch.ones_like)


def cancelling_slope(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SLOPE, "tanh", lambda z: 1 - z.tanh().square())


def reversed_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ArrayChain, "dense", lambda self, start, stop: self.jacobians[:, start:stop].flip(1))


def plain_product(monkeypatch: pytest.MonkeyPatch) -> None:
    def product_spectra(factors: Tensor, counts: list[int], ln_sigma: Tensor | None = None) -> list[Spectrum]:
        product = factors[0]
        for factor in factors[1:]:
            product = factor @ product
        return [Spectrum(torch.linalg.svdvals(product).log(), torch.ones(len(product), dtype=torch.bool))]

    monkeypatch.setattr("gradscope.numerics.spectra.product_spectra", product_spectra)


def nothing_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    from gradscope.numerics.spectra import spectra

    def unresolved(chain: ArrayChain, lags: list[int]) -> list[Spectrum]:
        return [Spectrum(found.ln_sigma, ~found.resolved) for found in spectra(chain, lags)]

    monkeypatch.setattr("gradscope.selftest.chain_cases.spectra", unresolved)


def binary_logarithm(monkeypatch: pytest.MonkeyPatch) -> None:
    mean = Exponents.mean.fget
    monkeypatch.setattr(Exponents, "mean", property(lambda self: mean(self) / math.log(2)))


def single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    mean = Exponents.mean.fget
    monkeypatch.setattr(Exponents, "mean", property(lambda self: mean(self).float().double()))


def unscaled_adjoint(monkeypatch: pytest.MonkeyPatch) -> None:
    def normalise(m: Tensor, e: Tensor | None = None, dims: int = 1) -> tuple[Tensor, Tensor]:
        return m, torch.zeros(m.shape[:-1], dtype=torch.int64) if e is None else e

    monkeypatch.setattr("gradscope.numerics.adjoint.normalise", normalise)


def missing_cell_path(monkeypatch: pytest.MonkeyPatch) -> None:
    build = LSTMLinearization.__init__

    def without(self, *arguments):
        build(self, *arguments)
        self.keep = torch.zeros_like(self.keep)

    monkeypatch.setattr(LSTMLinearization, "__init__", without)


def swapped_gates(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(self, x: Tensor, s: Tensor) -> Tensor:
        p, (h, c) = self.parameters, s.chunk(2, -1)
        z = x @ p["weight_ih"].T + h @ p["weight_hh"].T + p["bias_ih"] + p["bias_hh"]
        f, i, g, o = z.chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return torch.cat([o.sigmoid() * c.tanh(), c], -1)

    monkeypatch.setattr(LSTMCell, "step", step)


def halved_pull(monkeypatch: pytest.MonkeyPatch) -> None:
    pull = GRULinearization.pull

    def half(self, at, a):
        before, delta = pull(self, at, a)
        return before / 2, delta

    monkeypatch.setattr(GRULinearization, "pull", half)
    monkeypatch.setattr(GRULinearization, "pull_along", pull_steps)


def mirrored_rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    build = LRULinearization.__init__

    def conjugate(self, *arguments):
        build(self, *arguments)
        self.im = -self.im

    monkeypatch.setattr(LRULinearization, "__init__", conjugate)


def missing_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SelfAttention, "forward", lambda self, x: self._mix(*self._project(x)))


def nan_influence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradscope.selftest.chain_cases.influence.temporal_range", lambda analysis: math.nan)


def known_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def first_unit(size: int, device: torch.device) -> Tensor:
        return torch.eye(size, dtype=torch.float64, device=device)[0]

    monkeypatch.setattr("gradscope.numerics.singular_values._random", first_unit)


MUTANTS: list[tuple[Callable[[pytest.MonkeyPatch], None], set[str], set[str]]] = [
    # A transposed W has the same determinant.
    (transposed_weight, {"chain rule, rnn", "finite differences, rnn"}, {"sum of exponents, rnn"}),
    (
        dropped_slope,
        {"chain rule, rnn", "finite differences, rnn", "one tanh unit, w=2, T=20", "rnn equals torch.nn.RNN"},
        {"zero-input tanh RNN"},
    ),
    (cancelling_slope, {"saturated tanh, z=50"}, {"rnn equals torch.nn.RNN"}),
    (reversed_product, {"varied 4x4, T=200", "Henon map, product of 20"}, {"diag(2, 1/2), T=2000"}),
    (
        plain_product,
        {"diag(2, 1/2), T=2000", "Henon map, product of 20", "varied 4x4, T=200"},
        {"Jordan block .9, T=9"},
    ),
    (nothing_resolved, {"Jordan block .9, T=1"}, set()),
    (binary_logarithm, {"scaled orthogonal, a=0.7", "diagonal SSM (lru)"}, {"chain rule, rnn"}),
    (single_precision, {"scaled orthogonal, a=0.7", "diagonal SSM (lru)"}, {"iid Gaussian product (Newman)"}),
    (unscaled_adjoint, {"adjoint, gains 1/2 and 2"}, {"rnn equals torch.nn.RNN"}),
    (
        missing_cell_path,
        {"LSTM, forget gate sigmoid(6)", "chain rule, lstm", "finite differences, lstm", "lstm equals torch.nn.LSTM"},
        {"chain rule, gru"},
    ),
    (swapped_gates, {"lstm equals torch.nn.LSTM", "chain rule, lstm"}, {"gru equals torch.nn.GRU"}),
    (halved_pull, {"gru equals torch.nn.GRU"}, {"finite differences, gru"}),
    (mirrored_rotation, {"lru equals its sum", "chain rule, lru", "finite differences, lru"}, {"diagonal SSM (lru)"}),
    (missing_mask, {"attention equals torch.nn", "transformer equals torch.nn"}, {"uniform attention, T=10"}),
    (nan_influence, {"uniform attention, T=10"}, set()),
    (known_start, {"units that do not mix, N=160"}, {"varied 4x4, T=200"}),
]


@pytest.mark.parametrize(("corrupt", "noticed", "untouched"), MUTANTS, ids=[mutant[0].__name__ for mutant in MUTANTS])
def test_broken_code_fails_the_cases_that_are_about_it(corrupt, noticed, untouched, monkeypatch) -> None:
    corrupt(monkeypatch)
    assert failures(*noticed, *untouched) == noticed

"""Leading singular values without products, against whole spectra."""

from __future__ import annotations

import math

import pytest
import torch

from cases import Case
from gradscope.chain import ArrayChain, Backwards
from gradscope.numerics import analysis as analysis_module
from gradscope.numerics.analysis import Analysis, Run
from gradscope.numerics.spectra import leading_spectra, spectra
from gradscope.numerics.trace import Unavailable
from gradscope.records import RunSpec


@pytest.mark.parametrize("family", ["rnn", "gru", "lstm"])
def test_leading_values_equal_those_of_the_whole_spectrum(family: str) -> None:
    case = Case(family, {"hidden": "24", "init": "normal", "layers": "2"}, batch=1, length=60)
    trajectory = case.model().run(case.x())
    found = leading_spectra(trajectory, [1, 10, 60], 6)
    whole = spectra(ArrayChain(trajectory.dense(0, 60)), [1, 10, 60])
    for ln, moved, spectrum in zip(found.ln_sigma, found.residual, whole, strict=True):
        assert float((ln - spectrum.ln_sigma[:6]).abs().max()) < 1e-3
        assert float(moved.max()) < 1e-3


def test_large_states_fall_back_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analysis_module, "FULL_WORK", 1.0)
    case = Case("lstm", length=30)
    found = Analysis((Run(case.model(), case.x(), lambda y: y[:, -1].sum()),), RunSpec())
    with pytest.raises(Unavailable, match="only the leading 16 directions are measured"):
        _ = found.products
    assert math.isfinite(float(found.leading.ln_sigma[-1, 0]))


def test_a_chain_seen_from_its_other_end_is_its_transposes_in_reverse() -> None:
    case = Case("gru", length=9)
    chain = case.model().run(case.x())
    back, q = Backwards(chain), torch.randn(chain.batch, chain.size, 3, dtype=torch.float64)
    whole = back.dense(0, 9)
    for t in (1, 4, 9):
        torch.testing.assert_close(back.matmat(t, q), whole[:, t - 1] @ q, rtol=0, atol=1e-13)
        torch.testing.assert_close(back.rmatmat(t, q), whole[:, t - 1].mT @ q, rtol=0, atol=1e-13)
    torch.testing.assert_close(back.dense(2, 4), whole[:, 2:4], rtol=0, atol=0)
    torch.testing.assert_close(whole[:, 0], chain.dense(8, 9)[:, 0].mT, rtol=0, atol=1e-13)

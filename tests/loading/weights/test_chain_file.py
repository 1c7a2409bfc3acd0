"""Jacobians from any framework, as files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from gradscope.errors import UsageError
from gradscope.pipeline import diagnose
from gradscope.records import ModelResult, RunSpec


def analysed(path: Path, **settings: object) -> ModelResult:
    return diagnose(RunSpec(models=(str(path),), **settings)).models[0]


def test_a_chain_brings_its_steps_and_sequences(tmp_path: Path) -> None:
    chain = np.broadcast_to(np.diag([0.9, 0.5]), (2, 40, 2, 2)).astype(np.float32)
    np.save(tmp_path / "chain.npy", chain)
    np.savez(tmp_path / "chain.npz", anything=chain)
    found, again = analysed(tmp_path / "chain.npy"), analysed(tmp_path / "chain.npz")
    assert (found.kind, found.length, found.size) == ("chain", 40, 2)
    assert found.summary.lyapunov == pytest.approx([math.log(np.float32(0.9)), math.log(0.5)], abs=1e-12)
    assert found.singular_values == again.singular_values
    assert "2 sequences" in found.heading
    assert analysed(tmp_path / "chain.npy", length=10, needs_lag=5).length == 10


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((3, 2)), r"\(T, N, N\)"),
        (np.zeros((5, 2, 3)), r"\(T, N, N\)"),
        (np.zeros((1, 2, 2)), "at least 2 steps"),
        (np.zeros((5, 2, 2), bool), "true and false"),
        (np.zeros((5, 2, 2), "U3"), "real"),
    ],
)
def test_other_arrays_are_refused(values: np.ndarray, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "chain.npy", values)
    with pytest.raises(UsageError, match=message):
        analysed(tmp_path / "chain.npy")


def test_a_header_that_promises_terabytes_asks_for_no_memory(tmp_path: Path) -> None:
    with (tmp_path / "chain.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**3, 10**3)}
        )
    with pytest.raises(UsageError, match="damaged"):
        analysed(tmp_path / "chain.npy")


def test_a_jacobian_that_is_not_finite_is_a_finding(tmp_path: Path) -> None:
    chain = np.tile(np.eye(2), (9, 1, 1))
    chain[4, 0, 1] = np.inf
    np.save(tmp_path / "chain.npy", chain)
    found = analysed(tmp_path / "chain.npy")
    assert (found.status, found.summary.non_finite.step) == ("non-finite", 5)

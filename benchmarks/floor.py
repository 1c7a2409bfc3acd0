"""The machine's own limit: how fast it multiplies matrices of the very shape that a sweep multiplies."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.measure import Job

MULTIPLICATIONS = 16


@dataclass(frozen=True)
class Floor:
    """Products (rows, inner) @ (inner, columns), `MULTIPLICATIONS` of them per job.

    One sweep over T Jacobians of size N is T products of an N x N frame: 2 T N^3 operations when they are dense.
    """

    rows: int
    inner: int
    columns: int
    dtype: torch.dtype

    def job(self) -> Job:
        """The products."""
        a = torch.randn(self.rows, self.inner, dtype=self.dtype)
        b = torch.randn(self.inner, self.columns, dtype=self.dtype)
        into = torch.empty(self.rows, self.columns, dtype=self.dtype)

        def multiply() -> None:
            for _ in range(MULTIPLICATIONS):
                torch.mm(a, b, out=into)

        return multiply

    def sweep_seconds(self, job_seconds: float, length: int) -> float:
        """What `length` products take, from what the job took."""
        return job_seconds / MULTIPLICATIONS * length

    def rate(self, job_seconds: float) -> float:
        """Operations per second, a multiplication and an addition counting as two."""
        return 2.0 * self.rows * self.inner * self.columns * MULTIPLICATIONS / job_seconds


def dense(size: int, dtype: torch.dtype) -> Floor:
    """J_t Q with J_t as a matrix of `size` rows: 2 N^3."""
    return Floor(size, size, size, dtype)


def lstm(hidden: int, dtype: torch.dtype) -> Floor:
    """J_t Q for the state (h, c): one product of W_hh (4H, H) with the h part of the 2H vectors of the frame."""
    return Floor(2 * hidden, hidden, 4 * hidden, dtype)

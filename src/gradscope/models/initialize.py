"""Seeded weights that never touch torch's global random state."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from gradscope.errors import UsageError
from gradscope.memory import MARGIN, available_bytes

BYTES = 8
"""Of a number, drawn in float64 whatever the type of the run."""
Init = Literal["uniform", "normal", "orthogonal", "identity"]


class Draw:
    """A stream of random tensors. Drawn in float64 on the CPU, so dtype and device do not change the numbers."""

    def __init__(self, seed: int, dtype: torch.dtype, device: str) -> None:
        """Start the stream of `seed`; tensors come out in `dtype` on `device`."""
        self.generator = torch.Generator().manual_seed(seed)
        self.free, self.drawn, self.matrices = available_bytes(), 0, 0
        self.dtype, self.device = dtype, device

    def _room(self, *shape: int) -> None:
        """Refuse a tensor before memory is asked for it, what was drawn before counted in.

        Raises:
            UsageError: it does not fit, with the sizes.
        """
        count = math.prod(shape)
        needed = BYTES * (self.drawn + 2 * count)
        self.drawn, self.matrices = self.drawn + count, self.matrices + (len(shape) > 1)
        if self.free is None or needed <= MARGIN * self.free:
            return
        # As many matrices of one size, and as much again for what is computed with them.
        fits = int((MARGIN * self.free / BYTES / 8 / max(2, self.matrices)) ** 0.5)
        sizes = " x ".join(f"{n:,}" for n in shape)
        what = (
            f"{self.matrices} matrices of weights, the last of {sizes}," if self.matrices > 1 else f"weights of {sizes}"
        )
        have = f"need {needed / 2**30:,.1f} GiB and {self.free / 2**30:.1f} GiB are free"
        raise UsageError(f"{what} {have}; a smaller model fits, --hidden {min(fits, *shape)} for one")

    def place(self, values: Tensor) -> Tensor:
        """`values` in the dtype and on the device of this stream."""
        return values.to(self.device, self.dtype)

    def uniform(self, *shape: int, bound: float) -> Tensor:
        """Uniform in [-bound, bound]."""
        self._room(*shape)
        return self.place((2 * torch.rand(*shape, dtype=torch.float64, generator=self.generator) - 1) * bound)

    def normal(self, *shape: int, deviation: float = 1.0) -> Tensor:
        """Normal with the given standard deviation."""
        self._room(*shape)
        return self.place(torch.randn(*shape, dtype=torch.float64, generator=self.generator) * deviation)

    def orthogonal(self, size: int) -> Tensor:
        """Haar-distributed orthogonal matrix (Mezzadri 2007: QR of a Gaussian matrix, signs of diag R fixed)."""
        self._room(size, size)
        q, r = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=self.generator))
        return self.place(q * r.diagonal().sign())

    def identity(self, size: int) -> Tensor:
        """The identity."""
        self._room(size, size)
        return self.place(torch.eye(size, dtype=torch.float64))


def recurrent_matrix(init: Init, gain: float, hidden: int, draw: Draw) -> Tensor:
    """W_hh (hidden, hidden) by the named scheme, times `gain`."""
    if init == "uniform":
        return gain * draw.uniform(hidden, hidden, bound=hidden**-0.5)
    if init == "normal":
        return gain * draw.normal(hidden, hidden, deviation=hidden**-0.5)
    if init == "orthogonal":
        return gain * draw.orthogonal(hidden)
    return gain * draw.identity(hidden)


def input_matrix(init: Init, hidden: int, input_size: int, draw: Draw) -> Tensor:
    """W_ih (hidden, input_size): normal with deviation 1/sqrt(hidden) for `normal`, otherwise as torch.nn."""
    if init == "normal":
        return draw.normal(hidden, input_size, deviation=hidden**-0.5)
    return draw.uniform(hidden, input_size, bound=hidden**-0.5)

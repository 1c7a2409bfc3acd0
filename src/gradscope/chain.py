"""A trajectory as a chain of linear maps J_1 ... J_T: the one thing that every measure is a function of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from gradscope.errors import UsageError


class JacobianChain(Protocol):
    """Jacobians J_t = ds_t/ds_{t-1}, t = 1..length, of `batch` trajectories with states of `size` numbers."""

    @property
    def batch(self) -> int:
        """Sequences."""
        ...

    @property
    def length(self) -> int:
        """Steps T."""
        ...

    @property
    def size(self) -> int:
        """Numbers in a state."""
        ...

    @property
    def begins(self) -> int:
        """The step of the model whose state the chain begins with: J_1 of the chain is that of the step after it."""
        ...

    @property
    def like(self) -> Tensor:
        """An empty tensor of the type and on the device that the chain computes with."""
        ...

    def matmat(self, t: int, q: Tensor) -> Tensor:
        """J_t Q; (batch, size, k) -> (batch, size, k)."""
        ...

    def rmatmat(self, t: int, q: Tensor) -> Tensor:
        """J_t^T Q; (batch, size, k) -> (batch, size, k)."""
        ...

    def dense(self, start: int, stop: int) -> Tensor:
        """J_{start+1} .. J_stop as (batch, stop - start, size, size)."""
        ...


class ArrayChain:
    """A chain given as numbers: from a file, another framework, or a test."""

    def __init__(self, jacobians: Tensor, *, begins: int = 0) -> None:
        """Take Jacobians of shape (T, N, N) or (batch, T, N, N), and the step whose state they begin with.

        Raises:
            UsageError: the shape is another one.
        """
        stacked = jacobians[None] if jacobians.ndim == 3 else jacobians
        if stacked.ndim != 4 or stacked.shape[-1] != stacked.shape[-2] or 0 in stacked.shape:
            raise UsageError(f"Jacobians have shape {tuple(jacobians.shape)}; expected (T, N, N) or (batch, T, N, N)")
        self.jacobians, self.begins = stacked, begins
        self.batch, self.length, self.size = stacked.shape[:3]
        self.like = stacked.new_empty(0)

    def matmat(self, t: int, q: Tensor) -> Tensor:
        """J_t Q."""
        return self.jacobians[:, t - 1] @ q

    def rmatmat(self, t: int, q: Tensor) -> Tensor:
        """J_t^T Q."""
        return self.jacobians[:, t - 1].mT @ q

    def dense(self, start: int, stop: int) -> Tensor:
        """J_{start+1} .. J_stop."""
        return self.jacobians[:, start:stop]


class FirstSteps:
    """The first steps of a chain."""

    def __init__(self, chain: JacobianChain, length: int) -> None:
        """Keep J_1 .. J_length."""
        self.chain, self.like, self.begins = chain, chain.like, chain.begins
        self.batch, self.length, self.size = chain.batch, length, chain.size
        self.matmat, self.rmatmat, self.dense = chain.matmat, chain.rmatmat, chain.dense


class Backwards:
    """A chain as gradients pass it: J_T^T is its first map, J_1^T its last."""

    def __init__(self, chain: JacobianChain) -> None:
        """Look at a chain from its other end."""
        self.chain, self.like, self.begins = chain, chain.like, chain.begins
        self.batch, self.length, self.size = chain.batch, chain.length, chain.size

    def matmat(self, t: int, q: Tensor) -> Tensor:
        """J_{T+1-t}^T Q."""
        return self.chain.rmatmat(self.length + 1 - t, q)

    def rmatmat(self, t: int, q: Tensor) -> Tensor:
        """J_{T+1-t} Q."""
        return self.chain.matmat(self.length + 1 - t, q)

    def dense(self, start: int, stop: int) -> Tensor:
        """Its maps start + 1 .. stop."""
        return self.chain.dense(self.length - stop, self.length - start).flip(1).mT


def step_jacobians(
    step: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, states: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Jacobians of any `step(x, s) -> s'` at many points, through torch.func.

    Args:
        step: takes (batch, I) and (batch, S), returns (batch, S).
        inputs: x_t, shape (n, batch, I); I may be 0.
        states: s_{t-1}, shape (n, batch, S).

    Returns:
        ds'/ds of shape (n, batch, S, S), and ds'/dx of shape (n, batch, S, I), None when I is 0.
    """
    n, batch, size = states.shape
    width = inputs.shape[-1]
    wanted = (1, 0) if width else (1,)

    def single(x: Tensor, s: Tensor) -> Tensor:
        return step(x[None], s[None])[0]

    flat_x, flat_s = inputs.reshape(n * batch, width), states.reshape(n * batch, size)
    # The Jacobians are numbers: without this, weights that want gradients would tie a graph to every one of them.
    with torch.no_grad():
        jacobians = torch.func.vmap(torch.func.jacrev(single, argnums=wanted))(flat_x, flat_s)
    state = jacobians[0].reshape(n, batch, size, size)
    return state, jacobians[1].reshape(n, batch, size, width) if width else None

"""A chain that counts what is asked of it, so that sweeps are counted and not claimed."""

from __future__ import annotations

from torch import Tensor

from gradscope.chain import JacobianChain


class CountingChain:
    """Passes everything on to another chain and counts the columns that went through its Jacobians."""

    def __init__(self, chain: JacobianChain) -> None:
        """Start at zero."""
        self.chain = chain
        self.batch, self.length, self.size, self.like = chain.batch, chain.length, chain.size, chain.like
        self.columns = 0
        self.most_formed = 0
        """The most Jacobians that were formed at once."""

    @property
    def sweeps(self) -> int:
        """How often all of J_1 .. J_T were applied to, or multiplied as, a whole N x N matrix, to the nearest one."""
        return round(self.columns / (self.length * self.size))

    def matmat(self, t: int, q: Tensor) -> Tensor:
        """J_t Q."""
        self.columns += q.shape[-1]
        return self.chain.matmat(t, q)

    def rmatmat(self, t: int, q: Tensor) -> Tensor:
        """J_t^T Q."""
        self.columns += q.shape[-1]
        return self.chain.rmatmat(t, q)

    def dense(self, start: int, stop: int) -> Tensor:
        """J_{start+1} .. J_stop, counted as if each is then multiplied once."""
        self.columns += self.size * (stop - start)
        self.most_formed = max(self.most_formed, stop - start)
        return self.chain.dense(start, stop)

"""Bare Jacobians: a chain and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from gradscope.chain import ArrayChain, JacobianChain
from gradscope.models.cell import Layer
from gradscope.models.recurrent import Recurrent
from gradscope.numerics.checks import non_finite
from gradscope.numerics.gradients.adjoint import Adjoint, LayerAdjoint
from gradscope.numerics.spectra import exponents
from gradscope.numerics.traces.trace import Loss, Unavailable
from gradscope.records import EqualityCheck, Kind, NonFinite


class BareTrace:
    """The loss is <v, s_T> for a seeded unit vector v."""

    kind: Kind = "chain"
    carried: int | None = None
    begins = 0
    of_state = True
    layers: tuple[tuple[str, Layer], ...] = ()
    orders: tuple[Tensor | None, ...] = ()

    def __init__(self, chain: ArrayChain, seed: int) -> None:
        """Remember the chain."""
        self.bare, self.seed = chain, seed
        self.sequences, self.length, self.size = chain.batch, chain.length, chain.size
        self.shape = f"{chain.size} wide"

    @property
    def output(self) -> Tensor:
        """There is none."""
        raise Unavailable("a file of Jacobians has no output")

    def non_finite(self, loss: Loss) -> NonFinite | None:
        """In the Jacobians themselves."""
        return non_finite.first_bad({"Jacobian": self.bare.jacobians.transpose(0, 1)}, "chain")

    def cotangent(self, loss: Loss) -> Tensor:
        """V of the newest state, (batch, size)."""
        drawn = torch.randn(self.size, dtype=torch.float64, generator=torch.Generator().manual_seed(self.seed))
        unit: Tensor = drawn / drawn.norm()
        return unit.expand(self.sequences, -1)

    def anchors(self, v: Tensor, count: int) -> tuple[int, ...]:
        """The newest state."""
        return (self.length,)

    def newest(self, v: Tensor) -> Tensor | None:
        """Every sequence is asked at the same step."""
        return None

    def alone(self, v: Tensor, step: int) -> Tensor:
        """All there is."""
        return v

    def adjoint(self, v: Tensor, *, totals: bool = True) -> Adjoint:
        """There is no recurrence to sweep."""
        raise Unavailable("a file of Jacobians has no recurrent layers")

    def input_gradient(self, v: Tensor) -> Tensor:
        """There is no input."""
        raise Unavailable("a file of Jacobians has no input")

    def layer_adjoints(self, v: Tensor) -> tuple[LayerAdjoint, ...]:
        """There are no layers."""
        return ()

    def profile(self, v: Tensor, step: int) -> Tensor:
        """log10 ||dL/ds_{T-k}||, k = 0 .. T-1."""
        return exponents.adjoint_profile(self.bare, v[0])[:, : self.length]

    def equality(self, v: Tensor) -> EqualityCheck | None:
        """The file is all there is."""
        return None

    def recurrence(self, item: int) -> tuple[Recurrent, Tensor]:
        """There is none."""
        raise Unavailable("a file of Jacobians has no model")

    def ends(self, item: int) -> tuple[Tensor, Tensor, int]:
        """There is nothing beside the chain."""
        raise Unavailable("a file of Jacobians has no model")

    def anew_steps(self, item: int) -> None:
        """Not known."""

    def cut_steps(self, item: int) -> tuple[int, ...]:
        """There is nothing beside the chain."""
        raise Unavailable("a file of Jacobians has no model")

    def chain(self, item: int) -> JacobianChain:
        """Sequence `item` of the chain."""
        return ArrayChain(self.bare.jacobians[item])

"""A map from whole sequences to whole sequences: gradients with respect to the input are all there is."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from gradscope.chain import JacobianChain
from gradscope.models.cell import Linearization
from gradscope.models.direct import Direct
from gradscope.models.recurrent import Recurrent
from gradscope.numerics import finite, influence
from gradscope.numerics.adjoint import Adjoint, LayerAdjoint
from gradscope.numerics.traces.trace import Loss, Unavailable
from gradscope.records import Kind, NonFinite


class DirectTrace:
    """Forward and backward passes by autograd."""

    of_state = False
    layers: tuple[tuple[str, Linearization], ...] = ()

    def __init__(self, model: Direct, x: Tensor) -> None:
        """Remember the model and x (batch, T, features)."""
        self.model, self.x = model, x
        self.sequences, self.length = x.shape[:2]
        self.kind: Kind = model.kind

    @property
    def size(self) -> int:
        """Features of an output."""
        return int(self.output.shape[-1])

    @property
    def shape(self) -> str:
        """`64 wide`."""
        return f"{self.size} wide"

    @cached_property
    def output(self) -> Tensor:
        """Y, (batch, T, features)."""
        with torch.no_grad():
            return self.model(self.x)

    def non_finite(self) -> NonFinite | None:
        """The first of weights, input and output."""
        return (
            finite.in_weights(self.model.parameters())
            or finite.first_bad({"input": self.x.transpose(0, 1)}, "input")
            or finite.first_bad({"output": self.output.transpose(0, 1)}, "output")
        )

    def cotangent(self, loss: Loss) -> Tensor:
        """v_t = dL/dy_t."""
        return influence.cotangent(loss, self.output)

    def anchors(self, v: Tensor, count: int) -> tuple[int, ...]:
        """Steps the loss reads."""
        return tuple(influence.anchor_steps(v, count))

    def alone(self, v: Tensor, step: int) -> Tensor:
        """The cotangent of one step."""
        return influence.only_step(v, step)

    def adjoint(self, v: Tensor) -> Adjoint:
        """There is no recurrence to sweep."""
        raise Unavailable(self._without())

    def layer_adjoints(self, v: Tensor) -> tuple[LayerAdjoint, ...]:
        """There are no recurrent layers."""
        return ()

    def input_gradient(self, v: Tensor) -> Tensor:
        """log10 ||dL/dx_t||, (batch, T)."""
        return influence.direct_gradient(self.model, self.x, v)

    def profile(self, v: Tensor, step: int) -> Tensor:
        """log10 I(k)."""
        return self.input_gradient(v)[:, :step].flip(1)

    def recurrence(self, item: int) -> tuple[Recurrent, Tensor]:
        """There is none."""
        raise Unavailable(self._without())

    def chain(self, item: int) -> JacobianChain:
        """There is none."""
        raise Unavailable(self._without())

    def _without(self) -> str:
        name = self.model.name.split(":")[0]
        return f"{name} has no recurrent state: every output reads every input directly"

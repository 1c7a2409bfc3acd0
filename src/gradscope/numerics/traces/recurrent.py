"""A stack of recurrent layers that gradscope runs itself."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from gradscope.chain import JacobianChain
from gradscope.models.cell import Layer
from gradscope.models.recurrent import Recurrent, Trajectory
from gradscope.numerics.checks import non_finite
from gradscope.numerics.checks.equality import against_reference
from gradscope.numerics.gradients import influence
from gradscope.numerics.gradients.adjoint import Adjoint, LayerAdjoint, backpropagate
from gradscope.numerics.traces.ends import autograd_ends, moved_without_gradient
from gradscope.numerics.traces.trace import Loss
from gradscope.records import EqualityCheck, Kind, NonFinite


class RecurrentTrace:
    """Forward and backward passes along closed-form linear maps, in log scale."""

    carried: int | None = None
    begins = 0
    kind: Kind = "recurrent"

    def __init__(self, model: Recurrent, x: Tensor) -> None:
        """Remember the model and x (batch, T, features)."""
        self.model, self.x = model, x
        self.sequences, self.length = x.shape[:2]
        self.size, self.of_state = model.state_size, not x.shape[-1]
        self._swept: list[tuple[Tensor, Adjoint]] = []

    @property
    def shape(self) -> str:
        """`2x64`, or `64+32` for layers of different width."""
        widths = [cell.output_size for cell in self.model.cells]
        return f"{len(widths)}x{widths[0]}" if len(set(widths)) == 1 else "+".join(map(str, widths))

    @cached_property
    def trajectory(self) -> Trajectory:
        """The forward pass."""
        return self.model.run(self.x)

    @property
    def layers(self) -> tuple[tuple[str, Layer], ...]:
        """All of the stack."""
        return tuple(zip(self.trajectory.names, self.trajectory.layers, strict=True))

    @property
    def orders(self) -> tuple[Tensor | None, ...]:
        """All read forwards."""
        return (None,) * len(self.model.cells)

    @property
    def output(self) -> Tensor:
        """Y of the top layer, (batch, T, features)."""
        return self.trajectory.output

    def non_finite(self, loss: Loss) -> NonFinite | None:
        """The first of weights, input, and what the layers compute."""
        return (
            non_finite.in_weights(self.model.parameters())
            or non_finite.first_bad({"input": self.x.transpose(0, 1)}, "input")
            or non_finite.in_trajectories([self.trajectory])
        )

    def cotangent(self, loss: Loss) -> Tensor:
        """v_t = dL/dy_t."""
        return influence.cotangent(loss, self.output)

    def anchors(self, v: Tensor, count: int) -> tuple[int, ...]:
        """Steps the loss reads."""
        return tuple(influence.anchor_steps(v, count))

    def newest(self, v: Tensor) -> Tensor | None:
        """The newest step that the loss reads of every sequence, where it differs."""
        return influence.own_ends(v)

    def alone(self, v: Tensor, step: int) -> Tensor:
        """The cotangent of one step, or of an earlier one where a sequence ends before it."""
        return influence.only_step(v, step)

    def adjoint(self, v: Tensor, *, totals: bool = True) -> Adjoint:
        """The backward pass; asked again for the same cotangent, the same one."""
        for known, adjoint in self._swept:
            if known is v and (adjoint.has_totals or not totals):
                return adjoint
        self._swept = [*self._swept[-1:], (v, backpropagate(self.trajectory, v, totals=totals))]
        return self._swept[-1][1]

    def layer_adjoints(self, v: Tensor) -> tuple[LayerAdjoint, ...]:
        """What every layer receives."""
        return self.adjoint(v).layers

    def input_gradient(self, v: Tensor) -> Tensor:
        """log10 ||dL/dx_t||, (batch, T)."""
        return self.adjoint(v).input.T

    def profile(self, v: Tensor, step: int) -> Tensor:
        """log10 I(k) from the adjoint of the anchor's input, or of its state."""
        adjoint = self.adjoint(v, totals=False)
        heard = adjoint.state[1:] if self.of_state else adjoint.input
        return influence.by_lag(heard.T, self.newest(v), step)

    def equality(self, v: Tensor) -> EqualityCheck | None:
        """Against the torch.nn module with the same weights; None for a family built here."""
        if self.model.reference is None:
            return None
        return against_reference(self.model, self.x, v, self.output, self.adjoint(v))

    def recurrence(self, item: int) -> tuple[Recurrent, Tensor]:
        """The model itself, as it runs over one sequence."""
        return self.model.of_sequence(item, self.sequences), self.x[item : item + 1]

    def ends(self, item: int) -> tuple[Tensor, Tensor, int]:
        """dL/ds_0 and dL/ds_T through the unrolled model."""
        return (*autograd_ends(*self.recurrence(item)), self.length)

    def anew_steps(self, item: int) -> None:
        """Not known."""

    def cut_steps(self, item: int) -> tuple[int, ...]:
        """Steps that move without a gradient."""
        return moved_without_gradient(*self.recurrence(item))

    def chain(self, item: int) -> JacobianChain:
        """The trajectory of one sequence."""
        model, x = self.recurrence(item)
        with torch.no_grad():
            return model.run(x)

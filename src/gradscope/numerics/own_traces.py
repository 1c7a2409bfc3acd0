"""Traces of what gradscope runs itself: a stack of recurrent layers, and a bare chain of Jacobians."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor

from gradscope.chain import ArrayChain, JacobianChain
from gradscope.models.cell import Layer
from gradscope.models.stack import Recurrent, StackRun
from gradscope.models.user_step import CustomCell
from gradscope.numerics import first_nonfinite, influence, lyapunov
from gradscope.numerics.adjoint import Adjoint, LayerAdjoint, backpropagate
from gradscope.numerics.chain_rule import autograd_ends, moved_without_gradient
from gradscope.numerics.equality import stack_against_reference
from gradscope.numerics.trace import Loss, Unavailable
from gradscope.records import EqualityCheck, ModelKind, NonFinite


class RecurrentTrace:
    """Forward and backward passes along closed-form linear maps, in log scale."""

    carried: int | None = None
    begins = 0
    kind: ModelKind = "recurrent"

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
    def trajectory(self) -> StackRun:
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
            first_nonfinite.in_weights(self.model.parameters())
            or first_nonfinite.in_values({"input": self.x.transpose(0, 1)}, "input")
            or first_nonfinite.in_trajectories([self.trajectory])
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
        return stack_against_reference(self.model, self.x, v, self.output, self.adjoint(v))

    def recurrence(self, item: int) -> tuple[Recurrent, Tensor]:
        """The model itself, as it runs over one sequence."""
        return self.model.of_sequence(item, self.sequences), self.x[item : item + 1]

    def ends(self, item: int) -> tuple[Tensor, Tensor, int]:
        """dL/ds_0 and dL/ds_T through the unrolled model."""
        return (*autograd_ends(*self.recurrence(item)), self.length)

    def anew_steps(self, item: int) -> Mapping[int, bool] | None:
        """None: a family and a layer of torch.nn hand every state on. What a step of the user's does is not known."""
        return None if any(type(cell) is CustomCell for cell in self.model.cells) else {}

    def cut_steps(self, item: int) -> tuple[int, ...]:
        """Steps that move without a gradient."""
        return moved_without_gradient(*self.recurrence(item))

    def chain(self, item: int) -> JacobianChain:
        """The trajectory of one sequence."""
        model, x = self.recurrence(item)
        with torch.no_grad():
            return model.run(x)


class JacobiansTrace:
    """The loss is <v, s_T> for a seeded unit vector v."""

    kind: ModelKind = "chain"
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
        return first_nonfinite.in_values({"Jacobian": self.bare.jacobians.transpose(0, 1)}, "chain")

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
        return lyapunov.adjoint_profile(self.bare, v[0])[:, : self.length]

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

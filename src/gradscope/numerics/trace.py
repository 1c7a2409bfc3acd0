"""What an analysis asks of a forward pass, whatever the model is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from torch import Tensor

from gradscope.chain import JacobianChain
from gradscope.models.cell import Layer
from gradscope.models.stack import Recurrent
from gradscope.numerics.adjoint import Adjoint, LayerAdjoint
from gradscope.records import EqualityCheck, ModelKind, NonFinite

Loss = Callable[[Any], Tensor]
Value = TypeVar("Value")
Cotangent = Any
"""v = dL/dy in a form of the trace's own; nothing else looks inside."""


class Unavailable(Exception):  # noqa: N818 - a state of affairs, not a failure
    """A piece that does not exist for this model or run; the message is the reason, in words for the user.

    Args:
        reason: the message.
        told: whether the report says so in a place of its own already, so that no note has to.
    """

    def __init__(self, reason: str, *, told: bool = False) -> None:
        super().__init__(reason)
        self.told = told


@dataclass(frozen=True)
class NotMeasured:
    """The value of what could not be measured: the reason, in words for the user."""

    reason: str
    told: bool = False
    """Whether the report says so in a place of its own already."""


def attempted(read: Callable[[], Value]) -> Value | NotMeasured:
    """What `read` returns, or why it has nothing to return: `Unavailable` goes no further than this."""
    try:
        return read()
    except Unavailable as absent:
        return NotMeasured(str(absent), absent.told)


class Trace(Protocol):
    """One model along one batch of sequences. Every method raises `Unavailable` where the model has no such thing."""

    @property
    def kind(self) -> ModelKind:
        """What the report calls it."""
        ...

    @property
    def length(self) -> int:
        """Steps T."""
        ...

    @property
    def sequences(self) -> int:
        """How many are run side by side."""
        ...

    @property
    def size(self) -> int:
        """Numbers in the recurrent state; of a model without one, in an output."""
        ...

    @property
    def shape(self) -> str:
        """Layers and widths in a word: `2x64`."""
        ...

    @property
    def carried(self) -> int | None:
        """Numbers that a user's module takes from one step to the next, at most; None where that is not known."""
        ...

    @property
    def begins(self) -> int:
        """The first step that has a full state: 0, unless it begins as a number or without some of its parts."""
        ...

    @property
    def of_state(self) -> bool:
        """Whether influence is measured on the state, for want of an input."""
        ...

    @property
    def layers(self) -> tuple[tuple[str, Layer], ...]:
        """Every recurrent layer by name, bottom first."""
        ...

    @property
    def orders(self) -> tuple[Tensor | None, ...]:
        """For each of `layers` the own step at which it reads every input, (T, batch), from 0; None for its own."""
        ...

    @property
    def output(self) -> Tensor:
        """What the loss reads, (batch, T, features)."""
        ...

    def non_finite(self, loss: Loss) -> NonFinite | None:
        """Where NaN or Inf is born; None when all is finite of which the loss or a gradient hears."""
        ...

    def cotangent(self, loss: Loss) -> Cotangent:
        """The cotangent v = dL/dy, of the shape of the output."""
        ...

    def anchors(self, v: Cotangent, count: int) -> tuple[int, ...]:
        """Steps whose outputs the loss reads, `count` of them spread over the newest half; () for none."""
        ...

    def newest(self, v: Cotangent) -> Tensor | None:
        """The anchor of every sequence, (batch); None where all have the same.

        It is the newest step whose output the loss reads of the sequence, or, of an output without steps, whose state;
        0 where it reads none.
        """
        ...

    def alone(self, v: Cotangent, step: int) -> Cotangent:
        """The cotangent of that one step's output; `v` itself where it has no other."""
        ...

    def adjoint(self, v: Cotangent, *, totals: bool = True) -> Adjoint:
        """The backward pass of <v, y> through the recurrence; without `totals`, dL/dW itself may be left out."""
        ...

    def layer_adjoints(self, v: Cotangent) -> tuple[LayerAdjoint, ...]:
        """What every one of `layers` receives, in the same order, by steps of its input."""
        ...

    def input_gradient(self, v: Cotangent) -> Tensor:
        """log10 ||d<v, y>/dx_t||, (batch, T)."""
        ...

    def profile(self, v: Cotangent, step: int) -> Tensor:
        """log10 I(k), k = 0, 1, ..., (batch, lags), for the cotangent of one step alone."""
        ...

    def equality(self, v: Cotangent) -> EqualityCheck | None:
        """The chain held against the user's model for the gradient of <v, y>; None where it has no other model."""
        ...

    def recurrence(self, item: int) -> tuple[Recurrent, Tensor]:
        """The recurrence by itself and what it reads in sequence `item`, (1, T, features)."""
        ...

    def ends(self, item: int) -> tuple[Tensor, Tensor, int]:
        """dL/ds_0 and dL/ds_t of sequence `item`, each (size,), for L = <v, y_T>, v a seeded unit vector; and t.

        By autograd, and not by the chain. t is T, or T - 1 where y_T may read more than s_T.
        """
        ...

    def cut_steps(self, item: int) -> tuple[int, ...]:
        """Steps whose Jacobian is exactly zero although the new state depends on the old one."""
        ...

    def anew_steps(self, item: int) -> Mapping[int, bool] | None:
        """Steps that take nothing over from the old state; true where that is multiplied by zero, None if not known."""
        ...

    def chain(self, item: int) -> JacobianChain:
        """Jacobians of the joint state in sequence `item`."""
        ...

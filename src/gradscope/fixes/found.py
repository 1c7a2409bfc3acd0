"""Recurrences of the user's own code as remedies see them: found in the computation, changed in a copy."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from gradscope.errors import UsageError
from gradscope.fixes.layer import Layer, orthogonal
from gradscope.forward.opened import Opened
from gradscope.forward.weights import Weights, recurrent_weights
from gradscope.models.custom import CustomCell
from gradscope.models.direct import Direct
from gradscope.numerics.traces.find import first_opened

LOOKED = 12
"""Steps of the input by which a recurrence of the user's own code is found."""


@dataclass(frozen=True)
class FoundLayer(Layer):
    """A recurrence of the user's own code, known by what multiplies its state and what keeps it."""

    module: nn.Module = field(default_factory=nn.Module)
    """The copy that is written into."""
    found: Weights = field(default_factory=lambda: Weights((), ()))
    lines: list[str] = field(default_factory=list)
    """What was done, as Python."""

    @property
    def is_gated(self) -> bool:
        """Whether gates with biases keep its state."""
        return bool(self.found.keeps)

    def scale(self, gain: float) -> bool:
        """Multiply all that multiplies the state."""
        for matrix in self.found.matrices:
            matrix.piece.of(self.module).mul_(gain)
            self.lines.append(f"{matrix.piece.code(self.module)}.mul_({gain!r})")
        return bool(self.found.matrices)

    def orthogonalise(self, stream: torch.Generator) -> bool:
        """Put an orthogonal matrix in each square block of what multiplies the state."""
        for matrix in self.found.matrices:
            across, size = 1 - matrix.axis, matrix.piece.spans[matrix.axis][1]
            for start in range(0, matrix.piece.spans[across][1] - size + 1, size):
                block = matrix.piece.within(across, start, size)
                block.of(self.module).copy_(orthogonal(size, stream))
                self.lines.append(f"torch.nn.init.orthogonal_({block.code(self.module)})")
        return bool(self.lines)

    def keep(self, values: Tensor | float, code: str) -> bool:
        """Give each gate that keeps the state these biases, or their opposite where it does so when it is shut."""
        if not self.found.keeps:
            return False
        self.lines.extend([f"H = {self.hidden}", *code.split("\n")])
        for keep in self.found.keeps:
            for place, bias in enumerate(keep.biases):
                view = bias.of(self.module)
                view.copy_(torch.as_tensor(keep.sign * values if place == 0 else 0.0).expand_as(view))
                sign = "-" if keep.sign < 0 else ""
                self.lines.append(f"{bias.code(self.module)}[:] = {sign + 'bias' if place == 0 else '0.0'}")
        return True


class Walked(nn.Module):
    """A step gone through from its own first state."""

    def __init__(self, cell: CustomCell) -> None:
        super().__init__()
        self.step, self.cell = cell.module, cell

    def forward(self, x: Tensor) -> Tensor:
        """The states, (batch, T, S)."""
        state, states = self.cell.initial_state(len(x)), []
        for x_t in x.unbind(1):
            state = self.cell.step(x_t, state)
            states.append(state)
        return torch.stack(states, 1)


def found_in_step(cell: CustomCell, own: nn.Module) -> list[FoundLayer]:
    """The recurrence of a user's step in `own`, a copy of the module that it is."""
    walked = Direct(cell.name, Walked(cell), cell.input_size, kind="module")
    return found_layers(walked, own, cell.initial.new_ones(1, LOOKED, cell.input_size), "step.")


def _opened(model: Direct, x: Tensor) -> Opened | None:
    """A few steps, or all of them where the module takes no other length."""
    for given in (x[:, :LOOKED], x):
        try:
            return first_opened(model, given)
        except UsageError:
            continue
    return None


def found_layers(model: Direct, own: nn.Module, x: Tensor, prefix: str = "") -> list[FoundLayer]:
    """Recurrences of the user's own code in `own`, a copy of the model's module, that have weights to change.

    Args:
        model: what is looked into.
        own: what is changed.
        x: the model's input, (batch, T, features).
        prefix: of the model's names where `own` is a part of it.
    """
    if model.kind != "module" or model.closed or isinstance(own, torch.jit.ScriptModule):
        return []
    one = _opened(model, x)
    known = {
        f"{path}.{name}" if path else name
        for path, part in own.named_modules()
        if isinstance(part, nn.RNNBase | nn.RNNCellBase)
        for name, _ in part.named_parameters()
    }
    layers = []
    for weights in [] if one is None else recurrent_weights(one, prefix):
        matrices = tuple(matrix for matrix in weights.matrices if matrix.piece.name not in known)
        keeps = tuple(keep for keep in weights.keeps if keep.biases[0].name not in known)
        widths = [keep.biases[0].spans[-1][1] for keep in keeps] or [m.piece.spans[m.axis][1] for m in matrices]
        if widths and len(set(widths)) == 1:
            found = Weights(matrices, keeps)
            layers.append(FoundLayer("found", {}, widths[0], module=own, found=found))
    return layers

"""The recurrences found in a user's own code, as layers whose weights can be changed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from gradscope.errors import UsageError
from gradscope.fixes.remedy import Layer, of_first_steps, orthogonal
from gradscope.forward.keeping_gates import Keep
from gradscope.forward.recurrent_matrices import Matrix, Weights, recurrent_weights
from gradscope.forward.step_reader import Piece
from gradscope.forward.traced_pass import TracedPass
from gradscope.loading.step_function import StateOf
from gradscope.models.user_modules import copied
from gradscope.models.user_step import CustomCell
from gradscope.models.whole_module import WholeModule
from gradscope.numerics.pick_trace import first_opened
from gradscope.torch_private import saved

LOOKED = 12
"""Steps of the input by which a recurrence of the user's own code is found."""


@dataclass(frozen=True)
class FoundLayer(Layer):
    """A recurrence of the user's own code, known by what multiplies its state and what keeps it."""

    module: nn.Module = field(default_factory=nn.Module)
    """The copy that is written into."""
    found: Weights = field(default_factory=lambda: Weights((), ()))
    shifts: tuple[float, ...] = ()
    """What the user's code adds to each keeping gate besides its biases (`sigmoid(f + 1)`)."""
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
        for keep, shift in zip(self.found.keeps, self.shifts, strict=True):
            first, *others = keep.biases
            sign, less = "-" if keep.sign < 0 else "", f" - {shift!r}" if shift else ""
            self._write(first, torch.as_tensor(keep.sign * values - shift), f"{sign}bias{less}")
            for bias in others:
                self._write(bias, torch.zeros(()), "0.0")
        return True

    def _write(self, bias: Piece, values: Tensor, said: str) -> None:
        view = bias.of(self.module)
        view.copy_(values.expand_as(view))
        self.lines.append(f"{bias.code(self.module)}[:] = {said}")


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
    walked = WholeModule(cell.name, Walked(cell), cell.input_size, kind="module")
    prefix = "step.inner." if isinstance(cell.module, StateOf) else "step."
    return found_layers(walked, own, cell.initial.new_ones(1, LOOKED, cell.input_size), prefix)


def _opened(model: WholeModule, x: Tensor) -> TracedPass | None:
    """A few steps, or all of them where the module takes no other length."""
    try:
        return of_first_steps(lambda given: first_opened(model, given), x, LOOKED)
    except UsageError:
        return None


def found_layers(model: WholeModule, own: nn.Module, x: Tensor, prefix: str = "") -> list[FoundLayer]:
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
        matrices = [matrix for matrix in weights.matrices if matrix.piece.name not in known]
        keeps = [keep for keep in weights.keeps if keep.biases[0].name not in known]
        shifts = _shifts(model, x, keeps)
        # Layers of different widths in one loop are told apart by them.
        for width in dict.fromkeys([*map(_width, keeps), *(_columns(matrix) for matrix in matrices)]):
            fitting = tuple(keep for keep in keeps if _width(keep) == width and keep in shifts)
            found = Weights(tuple(one for one in matrices if _columns(one) == width), fitting)
            own_shifts = tuple(shifts[keep] for keep in fitting)
            layers.append(FoundLayer("found", {}, width, module=own, found=found, shifts=own_shifts))
    return layers


def _width(keep: Keep) -> int:
    return keep.biases[0].spans[-1][1]


def _columns(matrix: Matrix) -> int:
    return matrix.piece.spans[matrix.axis][1]


def _shifts(model: WholeModule, x: Tensor, keeps: Sequence[Keep]) -> dict[Keep, float]:
    """What is added to each gate besides parameters; those of which that cannot be told are left out.

    It is what a sigmoid is taken of where all parameters are zero.
    """
    found = {keep: 0.0 for keep in keeps if keep.shifted is None}
    if len(found) == len(keeps):
        return found
    zeroed = copy.copy(model)
    zeroed.module = copied(model.module)
    with torch.no_grad():
        for value in zeroed.module.parameters():
            value.zero_()
    one = _opened(zeroed, x)
    for keep in keeps if one is not None else ():
        if one is None or keep.shifted is None:
            continue
        index, start, length = keep.shifted
        if index < len(one.graph) and one.graph.names[index] == "SigmoidBackward0":
            before = saved(one.graph.nodes[index], "result")[..., start : start + length].detach().double().logit()
            if bool(before.isfinite().all()) and float(before.max() - before.min()) < 1e-6:
                found[keep] = round(float(before.mean()), 6)
    return found

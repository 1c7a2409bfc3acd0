"""Copies of a model that can be trained: all of them in lockstep where their layers allow it, else one by one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gradscope.chain import ArrayChain
from gradscope.errors import UsageError
from gradscope.isolation.caller_state import own_random_numbers
from gradscope.models.cell import Cell
from gradscope.models.gru import GRUCell
from gradscope.models.lru import LRUCell
from gradscope.models.lstm import LSTMCell
from gradscope.models.rnn import RNNCell
from gradscope.models.stack import Recurrent
from gradscope.models.tolerances import TOLERANCES
from gradscope.models.user_modules import copied
from gradscope.models.user_step import CustomCell
from gradscope.models.whole_module import WholeModule
from gradscope.probe.batched_cells import Weights, gru, lru, lstm, rnn
from gradscope.text import safe_text

CLOSE = TOLERANCES[torch.float32].gradients
"""Largest difference of outputs, relative to the largest of them, at which two ways count as one."""


class Modules:
    """Models that are run as they are, in training mode."""

    def __init__(self, models: Sequence[WholeModule]) -> None:
        """Copy the modules."""
        self.direct = models[0]
        self.modules = [copied(model.module).float().train() for model in models]
        with torch.no_grad(), own_random_numbers():
            seen = self._run(0, _two_steps(self.direct))
        self.output_size, self.has_steps = int(seen.shape[-1]), seen.ndim == 3
        # Fused kernels are faster alone than what torch.vmap makes of them; it has no rule for cells, and warns of it.
        fused = any(isinstance(part, nn.RNNBase | nn.RNNCellBase) for part in self.modules[0].modules())
        self._as_one = _AsOne(self) if len(models) > 1 and not fused else None
        self._checked = False

    @property
    def runs_as_one(self) -> bool:
        """Whether all copies are run at once."""
        return self._as_one is not None

    def leaves(self, run: int) -> list[nn.Parameter]:
        """All its parameters."""
        return [leaf for leaf in self.modules[run].parameters() if leaf.requires_grad]

    def outputs(self, x: Tensor, runs: Sequence[int]) -> Tensor:
        """All as one where that gives the same, else copy by copy."""
        if self._as_one is not None and not self._checked:
            self._checked = True
            if not self._as_one.agrees(x, runs):
                self._as_one = None
        if self._as_one is not None:
            try:
                return self._stepwise(self._as_one.outputs(x, runs), x)
            except Exception:  # whatever torch.func cannot do, the loop below can
                self._as_one = None
        return self.one_by_one(x, runs)

    def one_by_one(self, x: Tensor, runs: Sequence[int]) -> Tensor:
        """Copy by copy."""
        return self._stepwise(torch.stack([self._run(run, part) for run, part in zip(runs, x, strict=True)]), x)

    def _stepwise(self, found: Tensor, x: Tensor) -> Tensor:
        # A module that answers once for the whole sequence answers at its last step.
        found = found if found.ndim == 4 else found[:, :, None]
        return found.to(x.dtype) if x.is_floating_point() else found

    @contextmanager
    def precise(self) -> Iterator[None]:
        """Run in float64 for a while."""
        for module in self.modules:
            module.double()
        try:
            yield
        finally:
            for module in self.modules:
                module.float()

    def _run(self, run: int, x: Tensor) -> Tensor:
        try:
            return self.read(self.modules[run], x)
        except UsageError:
            raise
        except Exception as error:
            what = f"{type(error).__name__}: {safe_text(error)}"
            raise UsageError(
                f"{safe_text(self.direct.name)} fails in training mode on x {tuple(x.shape)}: {what}"
            ) from error

    def read(self, module: Callable[[Tensor], Any], x: Tensor) -> Tensor:
        """What `module` answers to x (B, T, F) or ids (B, T): (B, T, O), or (B, O) where it answers once."""
        own = next((leaf.dtype for leaf in self.modules[0].parameters()), x.dtype)
        taken = x if self.direct.ids is not None else x.to(own)
        found = module(self.direct.laid_out(taken))
        # To find out what its axes are the model itself is run, whose weights may be of another type than a copy's.
        whole = next((leaf.dtype for leaf in self.direct.parameters().values()), own)
        return self.direct.output(found, taken if self.direct.ids is not None else x.to(whole))


class _AsOne:
    """The copies run as one by torch.vmap over their weights."""

    def __init__(self, owner: Modules) -> None:
        self.owner, self.base = owner, copied(owner.modules[0])

    def outputs(self, x: Tensor, runs: Sequence[int]) -> Tensor:
        """As of the copies, one after the other."""
        self.base.to(next((leaf.dtype for leaf in self.owner.modules[0].parameters()), torch.float32))
        states = [{**dict(m.named_parameters()), **dict(m.named_buffers())} for m in self._modules(runs)]
        stacked = {key: torch.stack([state[key] for state in states]) for key in states[0]}

        def one(weights: dict[str, Tensor], part: Tensor) -> Tensor:
            return self.owner.read(lambda taken: functional_call(self.base, weights, (taken,)), part)

        return torch.vmap(one)(stacked, x)

    def agrees(self, x: Tensor, runs: Sequence[int]) -> bool:
        """Whether outputs and gradients are those of the copies, and running them changes no buffer."""
        buffers = [value.clone() for module in self._modules(runs) for value in module.buffers()]
        leaves = [leaf for run in runs for leaf in self.owner.leaves(run)]

        def seen(outputs: Callable[[Tensor, Sequence[int]], Tensor]) -> list[Tensor]:
            found = outputs(x, runs)
            weights = torch.linspace(-1, 1, found[0].numel(), dtype=found.dtype).view_as(found[0])
            grads = torch.autograd.grad((found * weights).sum(), leaves, allow_unused=True)
            return [found.detach(), *(torch.zeros(()) if grad is None else grad for grad in grads)]

        with torch.enable_grad(), own_random_numbers():
            alone = seen(self.owner.one_by_one)
            kept = [value for module in self._modules(runs) for value in module.buffers()]
            if any(not torch.equal(before, after) for before, after in zip(buffers, kept, strict=True)):
                for before, after in zip(buffers, kept, strict=True):
                    after.copy_(before)
                return False
            try:
                together = seen(self.outputs)
            except Exception:  # torch.func does not do everything that modules do
                return False
        return all(_close(a, b) for a, b in zip(alone, together, strict=True))

    def _modules(self, runs: Sequence[int]) -> list[nn.Module]:
        return [self.owner.modules[run] for run in runs]


def _close(one: Tensor, other: Tensor) -> bool:
    other = other.view_as(one) if one.numel() == other.numel() else other
    return one.shape == other.shape and bool((one - other).abs().max() <= CLOSE * one.abs().max())


def _two_steps(direct: WholeModule) -> Tensor:
    return torch.zeros(2, 2, dtype=torch.int64) if direct.ids is not None else torch.zeros(2, 2, direct.input_size)


LAYERS: Mapping[type, Callable[[Cell, Tensor, Weights, Tensor], Tensor]] = {
    RNNCell: lambda cell, x, w, s: rnn(x, w, s, cell.nonlinearity),  # type: ignore[attr-defined]
    GRUCell: lambda cell, x, w, s: gru(x, w, s),
    LSTMCell: lambda cell, x, w, s: lstm(x, w, s),
    LRUCell: lambda cell, x, w, s: lru(x, w, s),
}


class Copies(Protocol):
    """Independent copies of one model, float32."""

    output_size: int
    has_steps: bool
    """Whether there is an output at every step, and not one of the whole sequence."""

    def leaves(self, run: int) -> list[nn.Parameter]:
        """What is trained of copy `run`."""
        ...

    def outputs(self, x: Tensor, runs: Sequence[int]) -> Tensor:
        """Outputs (R, B, T, O) of x (R, B, T, F), differentiable; row r is copy `runs[r]`."""
        ...

    def precise(self) -> AbstractContextManager[None]:
        """Where entered, x may be float64 and is worked on in that type, if the model allows it."""
        ...


def copies_of(models: Sequence[Recurrent | WholeModule | ArrayChain], name: str) -> Copies:
    """A copy of each of `models`, which differ in weights alone.

    Raises:
        UsageError: nothing in them can be trained.
    """
    first = models[0]
    found: Copies | None = None
    if isinstance(first, Recurrent):
        plain = first.start is None and not first.cuts and all(type(cell) in LAYERS for cell in first.cells)
        found = (Lockstep if plain else Unrolled)([model for model in models if isinstance(model, Recurrent)])
    elif isinstance(first, WholeModule):
        found = Modules([model for model in models if isinstance(model, WholeModule)])
    if found is None or not found.leaves(0):
        raise UsageError(
            f"{safe_text(name)} has no weights to train; probe a family, a file of weights, or an nn.Module"
        )
    return found


class Lockstep:
    """Stacks of layers whose copies take every step together."""

    has_steps = True

    def __init__(self, models: Sequence[Recurrent]) -> None:
        """Copy the weights."""
        self.cells, self.output_size = models[0].cells, models[0].output_size
        self.weights = [[_trainable(cell.parameters) for cell in model.cells] for model in models]

    def leaves(self, run: int) -> list[nn.Parameter]:
        """Its weights."""
        return [leaf for layer in self.weights[run] for leaf in layer.values()]

    def outputs(self, x: Tensor, runs: Sequence[int]) -> Tensor:
        """Layer by layer, in the type of x."""
        flow = x.permute(2, 0, 3, 1).contiguous()
        for index, cell in enumerate(self.cells):
            layers = [self.weights[run][index] for run in runs]
            weights = {key: torch.stack([layer[key] for layer in layers]).to(x.dtype) for key in layers[0]}
            start = x.new_zeros(x.shape[0], cell.state_size, x.shape[1])
            flow = LAYERS[type(cell)](cell, flow, weights, start)
        return flow.permute(1, 3, 0, 2)

    def precise(self) -> AbstractContextManager[None]:
        """In the type of x at any time."""
        return nullcontext()


class Unrolled:
    """Any other stack of cells, unrolled by its own step."""

    has_steps = True

    def __init__(self, models: Sequence[Recurrent]) -> None:
        """Copy cells and weights."""
        self.models, self.output_size = [_copied(model) for model in models], models[0].output_size

    def leaves(self, run: int) -> list[nn.Parameter]:
        """Weights of its cells, those of a user's module included."""
        found = [leaf for leaf in self.models[run].parameters().values() if isinstance(leaf, nn.Parameter)]
        own = [
            cell.module for cell in self.models[run].cells if isinstance(cell, CustomCell) and cell.module is not None
        ]
        return found + [leaf for module in own for leaf in module.parameters()]

    def outputs(self, x: Tensor, runs: Sequence[int]) -> Tensor:
        """Copy by copy."""
        own = self.models[0].cells[0].initial_state(1).dtype
        return torch.stack([self.models[run](part.to(own)) for run, part in zip(runs, x, strict=True)]).to(x.dtype)

    def precise(self) -> AbstractContextManager[None]:
        """As they are: their steps may hold numbers of one type alone."""
        return nullcontext()


def _trainable(weights: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    return {key: nn.Parameter(value.detach().float().clone()) for key, value in weights.items()}


def _copied(model: Recurrent) -> Recurrent:
    cells = []
    for cell in model.cells:
        own = copy.copy(cell)
        if isinstance(own, CustomCell):
            if own.module is not None:
                own.module = copied(own.module).float().train()
                own.function = own.module
            own.initial, own.parameters = own.initial.float(), {}
        else:
            own.parameters = dict(_trainable(cell.parameters))
        cells.append(own)
    start = None if model.start is None else [part.float() for part in model.start]
    return Recurrent(model.name, cells, start=start, cuts=model.cuts)

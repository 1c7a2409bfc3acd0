"""Modules that do to their states, inputs and weights what people do, each with what is to be made of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

Between = Callable[[Tensor, Tensor, int], Tensor]
"""What happens to a state between two calls: (state, input of the step, step from 0) -> state."""


class Loop(nn.Module):
    """A GRU cell in a loop, with something between its calls."""

    def __init__(self, between: Between, cell: nn.Module | None = None) -> None:
        super().__init__()
        self.between, self.cell = between, cell or nn.GRUCell(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        h, outputs = x.new_zeros(len(x), 4), []
        for t, step in enumerate(x.unbind(1)):
            h = self.cell(step, self.between(h, step, t) if t else h)
            outputs.append(h)
        return torch.stack(outputs, 1)


class Halved(torch.autograd.Function):
    """The same numbers in the same place, and half of the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient / 2


def written(h: Tensor, step: Tensor, t: int) -> Tensor:
    """A column set to zero in place."""
    h[:, 0] = 0
    return h


def clipped(h: Tensor, step: Tensor, t: int) -> Tensor:
    """Its gradient clipped on the way back, by a hook of the user's."""
    if h.requires_grad:
        h.register_hook(lambda gradient: gradient.clamp(-0.1, 0.1))
    return h


class Pair(nn.Module):
    """An LSTM cell in a loop, with something done to (h, c) between its calls."""

    def __init__(self, between: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.between, self.cell = between, nn.LSTMCell(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(len(x), 4)
        outputs = []
        for step in x.unbind(1):
            h, c = self.cell(step, (h, c))
            outputs.append(h)
            h, c = self.between(h, c)
        return torch.stack(outputs, 1)


class Fused(nn.Module):
    """A recurrence of torch.nn under `around`: (recurrence, x) -> output."""

    def __init__(self, around: Callable[[nn.Module, Tensor], Tensor], rnn: nn.Module | None = None) -> None:
        super().__init__()
        self.around, self.rnn = around, nn.GRU(3, 3, batch_first=True) if rnn is None else rnn

    def forward(self, x: Tensor) -> Tensor:
        return self.around(self.rnn, x)


def added(rnn: nn.Module, x: Tensor) -> Tensor:
    """A residual, and a step blanked, in place."""
    y = rnn(x)[0]
    y += x
    y[:, 0] = 0
    return y


def blanked(rnn: nn.Module, x: Tensor) -> Tensor:
    """The input written into."""
    x[:, 2] = 0
    return rnn(x)[0]


def without_gradient(rnn: nn.Module, x: Tensor) -> Tensor:
    """Features of a frozen recurrence."""
    with torch.no_grad():
        y = rnn(x)[0]
    return y * x


def chunks(change: Callable[[Tensor], Tensor]) -> Callable[[nn.Module, Tensor], Tensor]:
    """Stretches of three steps, the state changed between them."""

    def around(rnn: nn.Module, x: Tensor) -> Tensor:
        h, outputs = None, []
        for part in x.split(3, 1):
            y, h = rnn(part, h)
            h = change(h)
            outputs.append(y)
        return torch.cat(outputs, 1)

    return around


class Stacked(nn.Module):
    """A user's cell of two layers whose states are one tensor (2, batch, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = nn.Linear(7, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        low = torch.tanh(self.low(torch.cat([x, h[0]], -1)))
        high = torch.tanh(self.high(torch.cat([low, h[1]], -1)))
        return high, torch.stack([low, high])


class StackedLoop(nn.Module):
    """That cell in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = Stacked()

    def forward(self, x: Tensor) -> Tensor:
        h, outputs = x.new_zeros(2, len(x), 4), []
        for step in x.unbind(1):
            y, h = self.cell(step, h)
            outputs.append(y)
        return torch.stack(outputs, 1)


class Image(nn.Module):
    """A convolutional LSTM cell of the user's: h and c are (batch, 2, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 8, 3, padding=1)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        h, c = state
        i, f, g, o = self.conv(torch.cat([x[:, None], h], 1)).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class ImageLoop(nn.Module):
    """That cell in a loop; h alone cut where asked."""

    def __init__(self, cut_h: bool = False) -> None:
        super().__init__()
        self.cell, self.cut_h = Image(), cut_h

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(len(x), 2, 3)
        for step in x.unbind(1):
            h, c = self.cell(step, (h.detach() if self.cut_h else h, c))
        return h


class Timed(nn.Module):
    """A cell that is told the step as a number."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(7, 4)

    def forward(self, x: Tensor, h: Tensor, t: int) -> Tensor:
        return torch.tanh(self.mix(torch.cat([x, h], -1))) * (1 + t / 10)


class TimedLoop(nn.Module):
    """That cell in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = Timed()

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 4)
        for t, step in enumerate(x.unbind(1)):
            h = self.cell(step, h, t)
        return h


class Deep(nn.Module):
    """One layer applied `times` times to the whole sequence: its output comes back, and it is no recurrence in time."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.layer, self.times = nn.Sequential(nn.Linear(3, 3), nn.Tanh()), times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = self.layer(x)
        return x


class Attending(nn.Module):
    """A GRU decoder that reads, at every step, what its own state attends to in an encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.cell = nn.GRU(3, 4, batch_first=True), nn.GRUCell(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        keys, h = self.encoder(x)
        h, outputs = h[0], []
        for step in x.unbind(1):
            weights = torch.softmax(keys @ h[..., None], 1)
            h = self.cell(torch.cat([step, (weights * keys).sum(1)], -1), h)
            outputs.append(h)
        return torch.stack(outputs, 1)


class Greedy(nn.Module):
    """A decoder of four steps that reads its own best guess, which has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.cell = nn.LSTM(3, 4, batch_first=True), nn.LSTMCell(3, 4)
        self.embed, self.out = nn.Embedding(5, 3), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        _, (h, c) = self.encoder(x)
        h, c, ids, outputs = h[0], c[0], torch.zeros(len(x), dtype=torch.int64), []
        for _ in range(4):
            h, c = self.cell(self.embed(ids), (h, c))
            outputs.append(self.out(h))
            ids = outputs[-1].argmax(-1)
        return torch.stack(outputs, 1)


class Keeping(nn.Module):
    """It keeps its last state for the next call, counts calls in a buffer, and forgets to switch dropout off."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.last = nn.GRU(3, 4, batch_first=True), None
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        y, h = self.rnn(functional.dropout(x, 0.4), self.last)
        self.last = h.detach()
        return y * self.calls


class Counting(nn.Module):
    """It returns something else at every call, from where nothing can be put back."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.calls = nn.GRU(3, 4, batch_first=True), []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(1)
        return self.rnn(x * len(self.calls))[0]


class Doubled(nn.LSTM):
    """A recurrence of torch.nn with a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(2 * x)[0]


class NormedCell(nn.GRUCell):
    """A cell of torch.nn with a step of its own."""

    def __init__(self) -> None:
        super().__init__(3, 4)
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return self.norm(super().forward(x, h))


def both_ways(rnn: nn.Module, x: Tensor) -> Tensor:
    """The same recurrence forwards and backwards."""
    return torch.cat([rnn(x)[0], rnn(x.flip(1))[0].flip(1)], -1)


def preallocated(cell: nn.Module, x: Tensor) -> Tensor:
    """Outputs written into a tensor made before."""
    h, outputs = torch.zeros(len(x), 4), torch.zeros(*x.shape[:2], 4)
    for t in range(x.shape[1]):
        h = cell(x[:, t], h)
        outputs[:, t] = h
    return outputs


def normalized() -> nn.Module:
    """Recurrent weights made from a direction and a length."""
    rnn = nn.LSTM(3, 4, batch_first=True)
    nn.utils.parametrizations.weight_norm(rnn, "weight_hh_l0")
    return rnn


def orthogonal() -> nn.Module:
    """An orthogonal recurrent matrix, made from any."""
    cell = nn.RNNCell(3, 4)
    nn.utils.parametrizations.orthogonal(cell, "weight_hh")
    return cell


def same(h: Tensor, step: Tensor, t: int) -> Tensor:
    """Nothing happens."""
    return h


@dataclass(frozen=True)
class Wild:
    """A module, the recurrences that are followed in it, and why there is no joint chain of Jacobians, if so."""

    name: str
    make: Callable[[], nn.Module]
    followed: tuple[str, ...] = ()
    why: str = ""
    size: int = 0
    """Numbers of the state, where the steps are found in the computation."""

    def __str__(self) -> str:
        return self.name

    def module(self) -> nn.Module:
        """In float64 and evaluation mode."""
        torch.manual_seed(3)
        return self.make().double().eval()


SEVERAL = "several recurrences"
WILD = [
    Wild("handed on", lambda: Loop(same), ("cell",)),
    Wild("cloned", lambda: Loop(lambda h, x, t: h.clone()), ("cell",)),
    Wild("viewed", lambda: Loop(lambda h, x, t: h[None].squeeze(0)), ("cell",)),
    Wild("cut", lambda: Loop(lambda h, x, t: h.detach().clone() if t == 4 else h), ("cell",)),
    Wild("written", lambda: Loop(written), size=4),
    Wild("halved", lambda: Loop(lambda h, x, t: Halved.apply(h)), size=4),
    Wild("scaled gradient", lambda: Loop(lambda h, x, t: h.detach() + (h - h.detach()) / 3), size=4),
    Wild("clipped", lambda: Loop(clipped), (), "hangs hooks of its own on gradients"),
    Wild("leaky", lambda: Loop(lambda h, x, t: 0.9 * h), size=4),
    Wild("gated by input", lambda: Loop(lambda h, x, t: h * x[:, :1].sigmoid()), size=4),
    Wild("restarted", lambda: Loop(lambda h, x, t: h if t != 5 else h * 0), size=4),
    Wild("stateless", lambda: Fused(lambda c, x: torch.stack([c(s) for s in x.unbind(1)], 1), nn.GRUCell(3, 4)), (),
         "every call starts anew"),
    Wild("h and c", lambda: Pair(lambda h, c: (h, c)), ("cell",)),
    Wild("h and c swapped", lambda: Pair(lambda h, c: (c, h)), size=8),
    Wild("h cut", lambda: Pair(lambda h, c: (h.detach(), c)), size=8),
    Wild("h normed", lambda: Pair(lambda h, c: (h.tanh(), c)), size=8),
    Wild("both cut", lambda: Pair(lambda h, c: (h.detach(), c.detach())), ("cell",)),
    Wild("added in place", lambda: Fused(added), ("rnn",)),
    Wild("input written", lambda: Fused(blanked), ("rnn",)),
    Wild("no gradient", lambda: Fused(without_gradient), (), "no recurrence was seen"),
    Wild("chunks", lambda: Fused(chunks(lambda h: h), nn.GRU(3, 4, 2, batch_first=True)), ("rnn",)),
    Wild("layers swapped", lambda: Fused(chunks(lambda h: h.flip(0)), nn.GRU(3, 4, 2, batch_first=True)),
         ("rnn", "rnn#2", "rnn#3"), SEVERAL),
    Wild("top handed to all",
         lambda: Fused(chunks(lambda h: h[-1:].expand(2, -1, -1)), nn.GRU(3, 4, 2, batch_first=True)),
         ("rnn", "rnn#2", "rnn#3"), SEVERAL),
    Wild("both ways in chunks", lambda: Fused(chunks(lambda h: h), nn.GRU(3, 4, batch_first=True, bidirectional=True)),
         ("rnn", "rnn#2", "rnn#3"), SEVERAL),
    Wild("one recurrence twice", lambda: Fused(both_ways), ("rnn", "rnn#2"), SEVERAL),
    Wild("sequence by sequence", lambda: Fused(lambda r, x: torch.stack([r(one)[0] for one in x]), nn.LSTM(3, 4)),
         size=8),
    Wild("checkpointed", lambda: Fused(lambda r, x: checkpoint(lambda u: r(u)[0], x, use_reentrant=False)), ("rnn",)),
    Wild("preallocated", lambda: Fused(preallocated, nn.GRUCell(3, 4)), ("rnn",)),
    Wild("stacked states", StackedLoop, size=8),
    Wild("image states", ImageLoop, size=12),
    Wild("image states, h cut", lambda: ImageLoop(cut_h=True), size=12),
    Wild("timed", TimedLoop, size=4),
    Wild("deep", lambda: Deep(4), (), "no recurrence was seen inside Deep"),
    Wild("as deep as long", lambda: Deep(9), (), "no recurrence was seen inside Deep"),
    Wild("attending", Attending, (), SEVERAL),
    Wild("greedy", Greedy, ("encoder", "cell"), SEVERAL),
    Wild("keeping", Keeping, ("rnn",)),
    Wild("counting", Counting, (), "returns something else when it is run again"),
    Wild("own forward", lambda: Fused(lambda r, x: r(x), Doubled(3, 4, batch_first=True)), size=8),
    Wild("own step", lambda: Loop(same, NormedCell()), size=4),
    Wild("weight norm", lambda: Fused(lambda r, x: r(x)[0], normalized()), ("rnn",)),
    Wild("orthogonal", lambda: Loop(same, orthogonal()), ("cell",)),
    Wild("parallel", lambda: nn.DataParallel(Loop(same)), ("module.cell",)),
    Wild("compiled", lambda: torch.compile(Loop(same), backend="eager"), ("cell",)),
    Wild("compiled inside",
         lambda: Fused(lambda r, x: r(x)[0], torch.compile(nn.GRU(3, 3, batch_first=True), backend="eager")), ("rnn",)),
]  # fmt: skip

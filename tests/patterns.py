"""Loops as people write them, each with the size of the state that a textbook would give it."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

INPUT, HIDDEN = 3, 4


class Base(nn.Module):
    """The weights of a plain recurrence."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.u, self.v = nn.Linear(4, 4), nn.Linear(3, 4), nn.Linear(4, 2)

    def cell(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(self.w(h) + self.u(x))

    def zeros(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), 4)


class Indexed(Base):
    def forward(self, x: Tensor) -> Tensor:
        h, outputs = self.zeros(x), []
        for t in range(x.shape[1]):
            h = torch.tanh(self.w(h) + self.u(x[:, t]))
            outputs.append(h)
        return torch.stack(outputs, 1)


class LastOnly(Base):
    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.size(0), 4, dtype=x.dtype)
        for t in range(x.size(1)):
            before = self.w(h) + self.u(x[:, t, :])
            h = torch.tanh(before)
        return self.v(h)


class Unbound(Base):
    def forward(self, x: Tensor) -> Tensor:
        h, outputs = self.zeros(x), []
        for step in x.unbind(1):
            h = self.cell(step, h)
            outputs.append(self.v(h))
        return torch.stack(outputs, 1)


class Iterated(Base):
    def forward(self, x: Tensor) -> Tensor:
        h, outputs = self.zeros(x), []
        for step in x.transpose(0, 1):
            h = self.cell(step, h)
            outputs += [h]
        return torch.stack(outputs).transpose(0, 1)


class Sliced(Base):
    def forward(self, x: Tensor) -> Tensor:
        h, outputs = self.zeros(x), []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t : t + 1].squeeze(1), h)
            outputs.append(h.unsqueeze(1))
        return torch.cat(outputs, 1)


class Split(Base):
    def forward(self, x: Tensor) -> Tensor:
        h, outputs = self.zeros(x), []
        for part in x.split(1, dim=1):
            h = self.cell(part[:, 0], h)
            outputs.append(h)
        return torch.stack(outputs, 1)


class Projected(Base):
    """The input goes through its weights before the loop."""

    def forward(self, x: Tensor) -> Tensor:
        given, h, outputs = self.u(x), self.zeros(x), []
        for t in range(x.shape[1]):
            h = torch.tanh(given[:, t] + self.w(h))
            outputs.append(h)
        return torch.stack(outputs, 1)


class Convolved(Base):
    """A causal convolution before the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.conv(nn.functional.pad(x.transpose(1, 2), (2, 0))).transpose(1, 2)
        h, outputs = self.zeros(x), []
        for t in range(x.shape[1]):
            h = self.cell(seen[:, t], h)
            outputs.append(h)
        return torch.stack(outputs, 1)


class TwoLayers(Base):
    """Both layers at every step, states in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList([nn.GRUCell(3, 4), nn.GRUCell(4, 4)])
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        states = [self.zeros(x) for _ in self.cells]
        outputs = []
        for t in range(x.shape[1]):
            flow = x[:, t]
            for index, cell in enumerate(self.cells):
                states[index] = self.norm(cell(flow, states[index]))
                flow = states[index]
            outputs.append(flow)
        return torch.stack(outputs, 1)


class LayerByLayer(Base):
    """The second layer walks when the first is done; a list between them."""

    def __init__(self) -> None:
        super().__init__()
        self.u2, self.w2 = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h, below = self.zeros(x), []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            below.append(h)
        h, outputs = self.zeros(x), []
        for step in below:
            h = torch.tanh(self.u2(step) + self.w2(h))
            outputs.append(h)
        return torch.stack(outputs, 1)


class Stacked(LayerByLayer):
    """The same with a tensor between the layers."""

    def forward(self, x: Tensor) -> Tensor:
        h, below = self.zeros(x), []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            below.append(h)
        between, h, outputs = torch.stack(below, 1), self.zeros(x), []
        for t in range(x.shape[1]):
            h = torch.tanh(self.u2(between[:, t]) + self.w2(h))
            outputs.append(h)
        return torch.stack(outputs, 1)


class Reversed(Base):
    def forward(self, x: Tensor) -> Tensor:
        h, outputs = self.zeros(x), []
        for t in reversed(range(x.shape[1])):
            h = self.cell(x[:, t], h)
            outputs.append(h)
        return torch.stack(outputs[::-1], 1)


class BothWays(Base):
    def __init__(self) -> None:
        super().__init__()
        self.w2, self.u2 = nn.Linear(4, 4), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        h, there = self.zeros(x), []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            there.append(h)
        h, back = self.zeros(x), []
        for t in range(x.shape[1] - 1, -1, -1):
            h = torch.tanh(self.w2(h) + self.u2(x[:, t]))
            back.append(h)
        return torch.cat([torch.stack(there, 1), torch.stack(back[::-1], 1)], -1)


class ReadBack(Base):
    """States are written into a buffer and read from it."""

    def forward(self, x: Tensor) -> Tensor:
        states = x.new_zeros(len(x), x.shape[1] + 1, 4)
        for t in range(x.shape[1]):
            states[:, t + 1] = self.cell(x[:, t], states[:, t].clone())
        return states[:, 1:]


class Kept(Base):
    """The state lives in the module."""

    def forward(self, x: Tensor) -> Tensor:
        self.state, outputs = self.zeros(x), []
        for t in range(x.shape[1]):
            self.step(x[:, t])
            outputs.append(self.state)
        return torch.stack(outputs, 1)

    def step(self, x: Tensor) -> None:
        self.state = self.cell(x, self.state)


class Masked(Base):
    """A mask made from the input leaves the state as it is at some steps."""

    def forward(self, x: Tensor) -> Tensor:
        h, outputs = self.zeros(x), []
        for t in range(x.shape[1]):
            keep = (x[:, t, :1] > 0).to(x.dtype)
            h = keep * h + (1 - keep) * self.cell(x[:, t], h)
            outputs.append(h)
        return torch.stack(outputs, 1)


class Episodes(Base):
    """The state starts anew where an episode ends."""

    def forward(self, x: Tensor) -> Tensor:
        h, outputs = self.zeros(x), []
        for t in range(x.shape[1]):
            if t and t % 4 == 0:
                h = self.zeros(x)
            h = self.cell(x[:, t], h)
            outputs.append(h)
        return torch.stack(outputs, 1)


class Zoneout(Base):
    """An LSTM cell of torch, parts of both states kept from the step before."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTMCell(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        h, c, outputs = self.zeros(x), self.zeros(x), []
        for t in range(x.shape[1]):
            h2, c2 = self.lstm(x[:, t], (h, c))
            h, c = 0.1 * h + 0.9 * h2, 0.2 * c + 0.8 * c2
            outputs.append(h)
        return torch.stack(outputs, 1)


class Dropped(Base):
    """Dropout on the state, one mask for all steps."""

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.functional.dropout(torch.ones(1, 4, dtype=x.dtype), 0.3, training=True)
        h, outputs = self.zeros(x), []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h * mask)
            outputs.append(h)
        return torch.stack(outputs, 1)


class Image(nn.Module):
    """A convolutional LSTM: states are (batch, 2, 2, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.embed = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(len(x), 2, 2, 2)
        outputs = []
        for t in range(x.shape[1]):
            frame = self.embed(x[:, t]).view(len(x), 1, 2, 2)
            i, f, o, g = self.conv(torch.cat([frame, h], 1)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            outputs.append(h.flatten(1))
        return torch.stack(outputs, 1)


class Delayed(Base):
    """The state of five steps before is read too."""

    def forward(self, x: Tensor) -> Tensor:
        states = [self.zeros(x)]
        for t in range(x.shape[1]):
            old = states[max(0, len(states) - 5)]
            states.append(torch.tanh(self.w(states[-1]) + self.u(x[:, t]) + 0.3 * old))
        return torch.stack(states[1:], 1)


class Queue(Base):
    """The same with a deque."""

    def forward(self, x: Tensor) -> Tensor:
        line, outputs = deque([self.zeros(x)] * 3, maxlen=3), []
        for t in range(x.shape[1]):
            line.append(torch.tanh(self.w(line[-1]) + self.u(x[:, t]) - 0.4 * line[0]))
            outputs.append(line[-1])
        return torch.stack(outputs, 1)


class Clockwork(Base):
    """A slow half that moves every third step."""

    def forward(self, x: Tensor) -> Tensor:
        fast, slow, outputs = x.new_zeros(len(x), 2), x.new_zeros(len(x), 2), []
        for t in range(x.shape[1]):
            new = self.cell(x[:, t], torch.cat([fast, slow], 1))
            fast = new[:, :2]
            if t % 3 == 0:
                slow = new[:, 2:]
            outputs.append(torch.cat([fast, slow], 1))
        return torch.stack(outputs, 1)


def normed_step(x: Tensor, h: Tensor, w: Tensor, u: Tensor) -> Tensor:
    norm = torch.layer_norm(h @ w + x @ u, [4])
    return torch.tanh(norm)


class Scripted(Base):
    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self.step = torch.jit.script(normed_step)

    def forward(self, x: Tensor) -> Tensor:
        h, outputs = self.zeros(x), []
        for t in range(x.shape[1]):
            h = self.step(x[:, t], h, self.w.weight, self.u.weight.t())
            outputs.append(h)
        return torch.stack(outputs, 1)


class Wrapped(Base):
    """The cell is called through a wrapper that has nothing to do with torch."""

    def forward(self, x: Tensor) -> Tensor:
        outputs: list[Tensor] = []

        def run(step: Callable[..., Any], *, state: dict[str, Tensor], item: Tensor) -> dict[str, Tensor]:
            return {"h": step(item, state["h"])}

        state = {"h": self.zeros(x)}
        for t in range(x.shape[1]):
            state = run(self.cell, state=state, item=x[:, t])
            outputs.append(state["h"])
        return torch.stack(outputs, 1)


class Branching(Base):
    """Python looks at a number on the way."""

    def forward(self, x: Tensor) -> Tensor:
        h, outputs = self.zeros(x), []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            if float(h.detach().abs().mean()) > 0.3:
                h = 0.5 * h
            outputs.append(h)
        return torch.stack(outputs, 1)


class Truncated(Base):
    """A detach every three steps."""

    def forward(self, x: Tensor) -> Tensor:
        h, outputs = self.zeros(x), []
        for t in range(x.shape[1]):
            if t and t % 3 == 0:
                h = h.detach()
            h = self.cell(x[:, t], h)
            outputs.append(h)
        return torch.stack(outputs, 1)


class Ungraded(Base):
    """A stretch of the state's way without gradient."""

    def forward(self, x: Tensor) -> Tensor:
        h, outputs = self.zeros(x), []
        for t in range(x.shape[1]):
            if t == 4:
                with torch.no_grad():
                    h = 0.9 * h
            h = self.cell(x[:, t], h)
            outputs.append(h)
        return torch.stack(outputs, 1)


class Echo(nn.Module):
    """A leaky echo state network: its weights are buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("w", torch.randn(4, 4) / 3)
        self.register_buffer("u", torch.randn(3, 4))
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h, outputs = x.new_zeros(len(x), 4), []
        for t in range(x.shape[1]):
            h = 0.7 * h + 0.3 * torch.tanh(h @ self.w + x[:, t] @ self.u)
            outputs.append(self.out(h))
        return torch.stack(outputs, 1)


class Learned(Base):
    """The first state is a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        h, outputs = self.first.expand(len(x), 4), []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            outputs.append(h)
        return torch.stack(outputs, 1)


class NoFirst(Base):
    """The first state is made by the first step."""

    def forward(self, x: Tensor) -> Tensor:
        h, outputs = None, []
        for t in range(x.shape[1]):
            h = torch.tanh(self.u(x[:, t])) if h is None else self.cell(x[:, t], h)
            outputs.append(h)
        return torch.stack(outputs, 1)


class InPlace(Base):
    """The state is changed where it lies."""

    def forward(self, x: Tensor) -> Tensor:
        h, outputs = self.zeros(x), []
        for t in range(x.shape[1]):
            new = self.cell(x[:, t], h)
            h = h.clone()
            h.mul_(0.4).add_(new, alpha=0.6)
            h[:, 0] = 0.5
            outputs.append(h)
        return torch.stack(outputs, 1)


class Unstacked(Base):
    """Two states in one tensor."""

    def forward(self, x: Tensor) -> Tensor:
        both, outputs = x.new_zeros(2, len(x), 4), []
        for t in range(x.shape[1]):
            h, c = both.unbind(0)
            c = 0.5 * c + self.cell(x[:, t], h)
            h = torch.sin(c) + 0.5 * h
            both = torch.stack([h, c])
            outputs.append(h)
        return torch.stack(outputs, 1)


class Running(Base):
    """Sums along the way, which are no state."""

    def forward(self, x: Tensor) -> Tensor:
        h, total = self.zeros(x), torch.zeros(len(x), 2, dtype=x.dtype)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            total = total + self.v(h)
        return total / x.shape[1]


class Named(NamedTuple):
    logits: Tensor
    state: Tensor


@dataclass
class Held:
    last: Tensor
    extra: dict[str, Tensor] = field(default_factory=dict)


class AsTuple(Base):
    def forward(self, x: Tensor) -> Named:
        h, outputs = self.zeros(x), []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            outputs.append(self.v(h))
        return Named(torch.stack(outputs, 1), h)


class AsDict(Base):
    def forward(self, x: Tensor) -> dict[str, Any]:
        h, outputs = self.zeros(x), []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            outputs.append(h)
        return {"hidden": torch.stack(outputs, 1), "last": {"h": h}}


class Skipping(Base):
    """Two steps of input at a time."""

    def forward(self, x: Tensor) -> Tensor:
        h, outputs = self.zeros(x), []
        for t in range(0, x.shape[1] - 1, 2):
            pair = x[:, t : t + 2].mean(1)
            h = self.cell(pair, h)
            outputs.append(h)
        return torch.stack(outputs, 1)


class Shortcut(Base):
    """The input of the step before is read too."""

    def forward(self, x: Tensor) -> Tensor:
        h, outputs = self.zeros(x), []
        for t in range(x.shape[1]):
            h = torch.tanh(self.w(h) + self.u(x[:, t]) + self.u(x[:, max(0, t - 1)]))
            outputs.append(torch.cat([h, x[:, t]], -1))
        return torch.stack(outputs, 1)


@dataclass(frozen=True)
class Pattern:
    """A loop, and what is to be found in it."""

    name: str
    make: Callable[[], nn.Module]
    size: int
    """Numbers of the state."""
    zero: tuple[int, ...] = ()
    """Steps whose Jacobian is zero."""
    cut: tuple[int, ...] = ()
    """Those of them that a detach made zero."""
    first: bool = True
    """Whether there is an s_0."""
    begins: int = 0
    """The first step whose state is full."""

    def __str__(self) -> str:
        return self.name

    def module(self) -> nn.Module:
        """In float64 and evaluation mode."""
        torch.manual_seed(5)
        return self.make().double().eval()


PATTERNS = [
    Pattern("indexed", Indexed, 4),
    Pattern("last only", LastOnly, 4),
    Pattern("unbound", Unbound, 4),
    Pattern("iterated", Iterated, 4),
    Pattern("sliced", Sliced, 4),
    Pattern("split", Split, 4),
    Pattern("projected before", Projected, 4),
    Pattern("convolved before", Convolved, 4),
    Pattern("two layers", TwoLayers, 8),
    Pattern("layer by layer", LayerByLayer, 8),
    Pattern("layer by layer, stacked", Stacked, 8),
    Pattern("read back", ReadBack, 4),
    Pattern("kept in self", Kept, 4),
    Pattern("masked", Masked, 4),
    Pattern("episodes", Episodes, 4, zero=(5, 9)),
    Pattern("zoneout", Zoneout, 8),
    Pattern("dropped", Dropped, 4),
    Pattern("image", Image, 16, begins=1),
    Pattern("delayed", Delayed, 20, begins=4),
    Pattern("queue", Queue, 12, begins=2),
    Pattern("clockwork", Clockwork, 4),
    Pattern("scripted", Scripted, 4),
    Pattern("wrapped", Wrapped, 4),
    Pattern("branching", Branching, 4),
    Pattern("truncated", Truncated, 4, zero=(4, 7, 10), cut=(4, 7, 10)),
    Pattern("without gradient", Ungraded, 4, zero=(5,), cut=(5,)),
    Pattern("echo state", Echo, 4),
    Pattern("learned first state", Learned, 4),
    Pattern("no first state", NoFirst, 4, first=False, begins=1),
    Pattern("in place", InPlace, 4),
    Pattern("unstacked", Unstacked, 8),
    Pattern("running sum", Running, 4),
    Pattern("named tuple", AsTuple, 4),
    Pattern("dictionary", AsDict, 4),
    Pattern("shortcut", Shortcut, 4),
]

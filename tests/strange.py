"""Modules that are unusual in one way each: what runs in a training loop is to be measured, whatever it looks like."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Base(nn.Module):
    """A tanh step of five units on four features, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.u, self.head = nn.Linear(5, 5), nn.Linear(4, 5), nn.Linear(5, 2)

    def zeros(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), 5)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(self.w(h) + self.u(x))

    def walk(self, x: Tensor) -> Tensor:
        """Its last state."""
        h = self.zeros(x)
        for step in x.unbind(1):
            h = self.step(step, h)
        return h


class Vector(Base):
    """Recurrent weights that are a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.weight_hh, self.bias_ih = nn.Parameter(torch.rand(5)), nn.Parameter(torch.rand(5))
        self.bias_hh = nn.Parameter(torch.rand(3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.zeros(x)
        for step in x.unbind(1):
            h = torch.tanh(self.weight_hh * h + self.u(step) + self.bias_ih) * self.bias_hh.mean()
        return h


class Ending(Base):
    """Sequences that end: the batch shrinks while it runs."""

    def __init__(self, *, fused: bool) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, 5) if fused else None

    def forward(self, x: Tensor) -> Tensor:
        h, ended, lengths = self.zeros(x), [], (12, 8, 5)
        for t in range(x.shape[1]):
            left = sum(length > t for length in lengths[: len(x)])
            if left < len(h):
                ended.append(h[left:])
                h = h[:left]
            h = self.step(x[:left, t], h) if self.cell is None else self.cell(x[:left, t], h)
        return torch.cat([h, *ended[::-1]])


class Narrowing(Base):
    """A state that loses units half way."""

    def __init__(self) -> None:
        super().__init__()
        self.w2, self.u2 = nn.Linear(3, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.walk(x[:, :6])[:, :3]
        for step in x[:, 6:].unbind(1):
            h = torch.tanh(self.w2(h) + self.u2(step))
        return h


class Growing(Base):
    """A state that grows with every step."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.u(x[:, 0])
        for step in x[:, 1:].unbind(1):
            h = torch.cat([0.9 * h, self.u(step)], 1)
        return h


class Chunks(nn.Module):
    """Chunks of unequal length, each from a new state, and a recurrence over their last states."""

    def __init__(self, *, written: bool) -> None:
        super().__init__()
        self.written = written
        kind = nn.GRUCell if written else nn.GRU
        more = {} if written else {"batch_first": True}
        self.inner, self.outer = kind(4, 4, **more), kind(4, 4, **more)

    def forward(self, x: Tensor) -> Tensor:
        if not self.written:
            chunks = [self.inner(chunk)[0][:, -1] for chunk in x.split(5, 1)]
            return self.outer(torch.stack(chunks, 1))[0][:, -1]
        g = x.new_zeros(len(x), 4)
        for chunk in x.split(5, 1):
            h = x.new_zeros(len(x), 4)
            for step in chunk.unbind(1):
                h = self.inner(step, h)
            g = self.outer(h, g)
        return g


class DualPath(nn.Module):
    """Along the chunks of a padded sequence, and across them."""

    def __init__(self) -> None:
        super().__init__()
        self.along, self.across = nn.LSTM(4, 4, batch_first=True), nn.LSTM(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        batch, steps, size = x.shape
        y = functional.pad(x, (0, 0, 0, -steps % 5)).reshape(batch, -1, 5, size)
        count = y.shape[1]
        y = y + self.along(y.reshape(-1, 5, size))[0].reshape(y.shape)
        z = self.across(y.transpose(1, 2).reshape(-1, count, size))[0].reshape(batch, 5, count, size)
        return (y + z.transpose(1, 2)).reshape(batch, -1, size)[:, :steps]


class Program(nn.Module):
    """What is scripted."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.u = nn.Linear(5, 5), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.shape[0], 5, dtype=x.dtype)
        for t in range(x.shape[1]):
            h = torch.tanh(self.w(h) + self.u(x[:, t]))
        return h


class Scripted(nn.Module):
    """A part that is a program, whose parameters are no leaves once it was cast."""

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self.inner, self.head = torch.jit.script(Program()), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x))


class Reader(nn.Module):
    """A decoder that reads all of an encoder's states at every step."""

    def __init__(self, *, fused: bool) -> None:
        super().__init__()
        self.fused, self.encoder, self.decoder = fused, nn.GRU(4, 5, batch_first=True), nn.GRUCell(5, 5)
        self.cell = nn.GRUCell(4, 5)

    def keys(self, x: Tensor) -> Tensor:
        if self.fused:
            return self.encoder(x)[0]
        h, found = x.new_zeros(len(x), 5), []
        for step in x.unbind(1):
            h = self.cell(step, h)
            found.append(h)
        return torch.stack(found, 1)

    def forward(self, x: Tensor) -> Tensor:
        keys = self.keys(x)
        d, outputs = keys[:, -1], []
        for _ in range(x.shape[1]):
            weight = torch.softmax((keys @ d[..., None])[..., 0], 1)
            d = self.decoder((weight[..., None] * keys).sum(1), d)
            outputs.append(d)
        return torch.stack(outputs, 1)


class Mapped(Base):
    """A step, or the whole loop, under torch.func.vmap."""

    def __init__(self, *, whole: bool) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, x: Tensor) -> Tensor:
        if self.whole:
            return torch.func.vmap(lambda one: self.walk(one[None])[0])(x)
        h = self.zeros(x)
        for step in x.unbind(1):
            h = torch.func.vmap(self.step)(step, h)
        return h


class Descent(Base):
    """A step that differentiates on its way."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.zeros(x)
        for step in x.unbind(1):
            h = h - 0.1 * torch.func.grad(lambda h: torch.tanh(self.w(h)).sum())(h) + self.u(step)
        return h


class Numpy(Base):
    """Means of the batch by way of numpy, added to the input."""

    def forward(self, x: Tensor) -> Tensor:
        return self.walk(x + torch.from_numpy(x.numpy().mean(1, keepdims=True)))


class Without(Base):
    """Steps, or a layer before them, under no_grad."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what, self.rnn = what, nn.GRU(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.what == "burn-in":
            with torch.no_grad():
                _, h = self.rnn(x[:, :6])
            return self.rnn(x[:, 6:], h)[0]
        h = self.zeros(x)
        for t, step in enumerate(x.unbind(1)):
            with torch.set_grad_enabled(torch.is_grad_enabled() and t != 6):
                h = self.step(step, h)
        return h


STRANGE: dict[str, Callable[[], nn.Module]] = {
    "vector": Vector,
    "sequences end": lambda: Ending(fused=False),
    "sequences end, fused": lambda: Ending(fused=True),
    "state narrows": Narrowing,
    "state grows": Growing,
    "unequal chunks": lambda: Chunks(written=False),
    "unequal chunks, written": lambda: Chunks(written=True),
    "dual path": DualPath,
    "scripted": Scripted,
    "reads an encoder": lambda: Reader(fused=True),
    "reads an encoder, written": lambda: Reader(fused=False),
    "vmap of a step": lambda: Mapped(whole=False),
    "vmap of all": lambda: Mapped(whole=True),
    "gradient inside": Descent,
    "numpy": Numpy,
    "burn-in without gradient": lambda: Without("burn-in"),
    "a step without gradient": lambda: Without("step"),
}


def by_autograd(module: nn.Module, x: Tensor, loss: Callable[[Any], Tensor]) -> list[float]:
    """log10 of the geometric mean over sequences of ||dL/dx_t||; exact zeros are left out where others are not."""
    leaf = x.clone().requires_grad_()
    if isinstance(module, Numpy):
        # numpy takes no tensor that wants a gradient; its numbers are constants.
        loss(module.walk(leaf + x.mean(1, keepdim=True))).backward()
    else:
        loss(module(leaf)).backward()
    assert leaf.grad is not None
    found = []
    for norms in leaf.grad.norm(dim=-1).unbind(1):
        heard = norms[norms > 0]
        found.append(heard.log10().mean().item() if len(heard) else -torch.inf)
    return found

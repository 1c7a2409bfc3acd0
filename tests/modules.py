"""Modules as users write them: the catalogue that following recurrences is held against plain autograd over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class Wrapped(nn.Module):
    """Linear front end, a recurrence of torch.nn, and a head on what `read` says: output, last h, last c."""

    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM, read: str = "y", **settings: Any) -> None:
        super().__init__()
        self.read = read
        settings = {"batch_first": True, **settings}
        self.front, self.rnn = nn.Linear(3, 4), kind(4, 6, **settings)
        self.head = nn.LazyLinear(2)

    def forward(self, x: Tensor) -> Tensor:
        y, state = self.rnn(torch.tanh(self.front(x)))
        h = state[0] if isinstance(state, tuple) else state
        last = {"y": y, "h": h.transpose(0, 1).flatten(1), "c": state[-1].transpose(0, 1).flatten(1)}
        return self.head(last[self.read])


class CellLoop(nn.Module):
    """A cell of torch.nn in a loop, its state detached before the steps in `cuts`."""

    def __init__(self, kind: type[nn.RNNCellBase] = nn.LSTMCell, cuts: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.cell, self.cuts = kind(3, 5), cuts

    def forward(self, x: Tensor) -> Tensor:
        state, outputs = None, []
        for t, step in enumerate(x.unbind(1), 1):
            if t in self.cuts and state is not None:
                state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
            state = self.cell(step, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(outputs, 1)


class Leaky(nn.Module):
    """A user's own step: h' = tanh(W [x, h]); returns what `form` says."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.mix = form, nn.Linear(8, 5)

    def forward(self, x: Tensor, h: Tensor) -> Any:
        new = 0.9 * h + torch.tanh(self.mix(torch.cat([x, h], -1)))
        return {"state": new, "pair": (2 * new, new), "same": (new, new), "dict": {"y": new.square(), "h": new}}[
            self.form
        ]


class OwnLoop(nn.Module):
    """That step in a loop that starts from a learned state."""

    def __init__(self, form: str = "pair") -> None:
        super().__init__()
        self.step, self.first = Leaky(form), nn.Parameter(torch.full((5,), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        h, outputs = self.first.expand(len(x), -1), []
        for step in x.unbind(1):
            found = self.step(step, h)
            y, h = {"state": lambda f: (f, f), "dict": lambda f: (f["y"], f["h"])}.get(self.step.form, tuple)(found)
            outputs.append(y)
        return torch.stack(outputs, 1)


class Translator(nn.Module):
    """Tokens, an encoder whose last state starts a decoder that reads the encoder's normed output, weights tied."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 4)
        self.encoder, self.decoder = (
            nn.GRU(4, 4, 2, batch_first=True),
            nn.LSTM(4, 4, 2, batch_first=True, bidirectional=True),
        )
        self.norm, self.narrow = nn.LayerNorm(4), nn.Linear(8, 4)

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        embedded = self.embed(ids)
        y, h = self.encoder(embedded)
        z, _ = self.decoder(self.norm(y) + embedded, (torch.cat([h, h]), torch.zeros(4, len(ids), 4)))
        return {"logits": self.narrow(z) @ self.embed.weight.T, "state": h}


class Packed(nn.Module):
    """Sequences of different lengths; what is padded in counts for nothing."""

    def __init__(self, sort: bool, **settings: Any) -> None:
        super().__init__()
        self.sort, self.rnn = sort, nn.LSTM(3, 4, 2, batch_first=True, **settings)

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.tensor([9, 5] if self.sort else [4, 9])
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=self.sort)
        y, (h, c) = self.rnn(packed)
        return pad_packed_sequence(y, batch_first=True)[0].sum(1) + h[-1] @ h[-1].new_ones(4, 1) + c[0].sum()


class Chunked(nn.Module):
    """An LSTM called on stretches of the sequence, its state handed on, detached where asked."""

    def __init__(self, detach: bool) -> None:
        super().__init__()
        self.detach, self.rnn = detach, nn.LSTM(3, 5, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        state, outputs = None, []
        for part in x.split(4, 1):
            y, state = self.rnn(part, state)
            state = tuple(s.detach() for s in state) if self.detach else state
            outputs.append(y)
        return torch.cat(outputs, 1)


class Residual(nn.Module):
    """Two recurrences on top of each other, each added to what it reads, with a function of the user's between."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.upper = nn.GRU(3, 3, batch_first=True), nn.LSTM(3, 3, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        x = x + self.lower(x)[0]
        return Clipped.apply(x) + self.upper(x)[0], None


class Clipped(torch.autograd.Function):
    """A custom gradient: halved on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clamp(-2, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient / 2


class Fed(nn.Module):
    """Its output comes back as input: the recurrence is more than the cell."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 3)
        for step in x.unbind(1):
            h = self.cell(step + h.tanh(), h)
        return h


class Normed(nn.Module):
    """Its state is normed between calls: no call hands on the state that the next one gets."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.norm = nn.GRUCell(3, 4), nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 4)
        for step in x.unbind(1):
            h = self.norm(self.cell(step, h))
        return h


class Strided(nn.Module):
    """A convolution in front: the recurrence walks half as many steps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.rnn = nn.Conv1d(3, 4, 3, stride=2, padding=1), nn.GRU(4, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(self.conv(x.transpose(1, 2)).transpose(1, 2))[0]


@dataclass(frozen=True)
class ModuleCase:
    """A module, what its loss reads, and whether it has one joint state."""

    name: str
    make: Callable[[], nn.Module]
    loss: Callable[[Any], Tensor] = field(default=lambda y: y.square().sum())
    joint: bool = True
    ids: bool = False

    def __str__(self) -> str:
        return self.name

    def module(self, seed: int = 0) -> nn.Module:
        """In float64, evaluation mode, lazy parts built."""
        torch.manual_seed(seed)
        module = self.make().double().eval()
        with torch.no_grad():
            before = torch.get_default_dtype()
            torch.set_default_dtype(torch.float64)
            module(self.x())
            torch.set_default_dtype(before)
        return module

    def x(self, length: int = 9) -> Tensor:
        """Two sequences."""
        generator = torch.Generator().manual_seed(1)
        if self.ids:
            return torch.randint(11, (2, length), generator=generator)
        return torch.randn(2, length, 3, dtype=torch.float64, generator=generator)


def _wrapped(kind: type[nn.RNNBase], read: str, **settings: Any) -> ModuleCase:
    options = ",".join(f"{k}={v}" for k, v in settings.items())
    joint = not settings.get("bidirectional", False)
    return ModuleCase(f"{kind.__name__}({options}) {read}", lambda: Wrapped(kind, read, **settings), joint=joint)


CASES = [
    *(
        _wrapped(kind, read, num_layers=layers, bidirectional=both)
        for kind in (nn.RNN, nn.GRU, nn.LSTM)
        for layers in (1, 2)
        for both in (False, True)
        for read in ("y", "h", *(("c",) if kind is nn.LSTM else ()))
    ),
    _wrapped(nn.RNN, "y", nonlinearity="relu"),
    _wrapped(nn.GRU, "h", bias=False),
    _wrapped(nn.LSTM, "y", num_layers=2, dropout=0.4),
    _wrapped(nn.LSTM, "h", num_layers=2, proj_size=3),
    *(ModuleCase(f"{k.__name__} loop", lambda k=k: CellLoop(k)) for k in (nn.RNNCell, nn.GRUCell, nn.LSTMCell)),
    ModuleCase("cut loop", lambda: CellLoop(cuts=(4, 7))),
    *(ModuleCase(f"own loop {form}", lambda form=form: OwnLoop(form)) for form in ("state", "pair", "same", "dict")),
    ModuleCase("translator", Translator, lambda out: out["logits"].square().sum() + out["state"].sum(), False, True),
    *(
        ModuleCase(f"packed {sort} {both}", lambda s=sort, b=both: Packed(s, bidirectional=b), joint=False)
        for sort in (True, False)
        for both in (True, False)
    ),
    ModuleCase("chunks", lambda: Chunked(False)),
    ModuleCase("cut chunks", lambda: Chunked(True)),
    ModuleCase("residual", Residual, lambda out: out[0].square().sum(), False),
    ModuleCase("fed", Fed, joint=False),
    ModuleCase("normed", Normed, joint=False),
    ModuleCase("strided", Strided, joint=False),
]

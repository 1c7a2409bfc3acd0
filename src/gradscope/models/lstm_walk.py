"""An LSTM layer along a sequence: its states, its gates, and the slopes that its linear map is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gradscope.models.gated import driven, pieces, torch_outputs


@dataclass(frozen=True)
class Walked:
    """All that the linear map of every step needs."""

    states: Tensor
    """(h, c) side by side, s_0 .. s_T, (T + 1, batch, 2H)."""
    gates: Tensor
    """i, f, g and o, (T, batch, 4H)."""
    slopes: Tensor
    """By how much the gates' pre-activations move c', g i', c f' and i g', and h', tanh(c') o'; (T, batch, 4H)."""
    cell_to_hidden: Tensor
    """o (1 - tanh^2 c'), (T, batch, H)."""


def walk(weights: Mapping[str, Tensor], x: Tensor, s0: Tensor) -> Walked:
    """Walk over x (T, batch, I) from s0 (batch, 2H).

    Where torch has a fused kernel it says what every step hears, and the gates follow for many steps at once. Elsewhere
    torch would walk step by step as well, and give none of the gates it passes.
    """
    z, u = driven(x, weights), weights["weight_hh"].T
    states, gates = s0.new_empty(len(x) + 1, *s0.shape), torch.empty_like(z)
    states[0], hidden = s0, len(u)
    h, c = states.split(hidden, -1)
    cell_to_hidden = torch.empty_like(c[1:])
    if fused := x.dtype == torch.float32 or x.device.type == "cuda":
        h[1:] = torch_outputs(torch.lstm, x, s0.split(hidden, -1), weights)
    for at in pieces(z):
        old, new = (h[:-1][at], c[:-1][at]), (h[1:][at], c[1:][at])
        tanh_c = (_follow if fused else _step)(z[at], gates[at], old, new, u)
        o = gates[at][..., 3 * hidden :]
        torch.mul(o, tanh_c, out=new[0])
        torch.mul(o, _sech2(new[1]), out=cell_to_hidden[at])
        _write_slopes(z[at], gates[at], old[1], tanh_c)
    return Walked(states, gates, z, cell_to_hidden)


Pair = tuple[Tensor, Tensor]


def _follow(z: Tensor, gates: Tensor, old: Pair, new: Pair, u: Tensor) -> Tensor:
    """Gates and c' of a piece whose h is known; returns tanh(c')."""
    z.flatten(0, 1).addmm_(old[0].flatten(0, 1), u)
    i, f, g, _ = torch.sigmoid(z, out=gates).chunk(4, -1)
    torch.mul(i, torch.tanh(z.chunk(4, -1)[2], out=g), out=new[1])
    for keep, c, new_c in zip(*(row.unbind(0) for row in (f, old[1], new[1])), strict=True):
        new_c.addcmul_(keep, c)
    return new[1].tanh()


def _step(z: Tensor, gates: Tensor, old: Pair, new: Pair, u: Tensor) -> Tensor:
    """Gates, c' and h' of a piece, one step after the other; returns tanh(c')."""
    squashed = torch.empty_like(new[1])
    # Views by step, made at once: slicing inside the loop costs as much as the arithmetic.
    rows = (z, z.chunk(4, -1)[2], gates, *gates.chunk(4, -1), squashed, *old, *new)
    for pre, pre_g, own, i, f, g, o, tanh_c, h, c, new_h, new_c in zip(*(row.unbind(0) for row in rows), strict=True):
        pre.addmm_(h, u)
        torch.sigmoid(pre, out=own)
        torch.tanh(pre_g, out=g)
        torch.mul(i, g, out=new_c).addcmul_(f, c)
        torch.mul(o, torch.tanh(new_c, out=tanh_c), out=new_h)
    return squashed


def _write_slopes(z: Tensor, gates: Tensor, old_c: Tensor, tanh_c: Tensor) -> None:
    """Write the slopes over the pre-activations that they are taken at."""
    to_i, to_f, to_g, to_o = z.chunk(4, -1)
    i, _, g, _ = gates.chunk(4, -1)
    # sigmoid(-z) is 1 - sigmoid(z) without the cancellation near one; likewise 1/cosh^2 for 1 - tanh^2.
    shut_i, shut_f, _, shut_o = (-z).sigmoid_().mul_(gates).chunk(4, -1)
    torch.mul(g, shut_i, out=to_i)
    torch.mul(old_c, shut_f, out=to_f)
    torch.mul(i, _sech2(to_g), out=to_g)
    torch.mul(tanh_c, shut_o, out=to_o)


def _sech2(z: Tensor) -> Tensor:
    return z.cosh().reciprocal_().square_()

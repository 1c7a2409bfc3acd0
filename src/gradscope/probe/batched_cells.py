"""Several copies of a layer trained at once: their steps are taken together, so that each operation serves all.

What the lockstep layers share.
Everything here is (T, R, features, batch): the numbers of one step lie together, and so do those of one gate, so that
each operation of a step is a single one for all copies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]
"""Named as in torch.nn, each with the copies in front: `weight_hh` (R, G H, H)."""


def applied(function: type[torch.autograd.Function], *given: Any) -> Tensor:
    """The function's output, a tensor."""
    found: Tensor = function.apply(*given)
    return found


def times(matrix: Tensor, x: Tensor) -> Tensor:
    """W x_t at every step, (T, R, O, B), of W (R, O, I) and x (T, R, I, B)."""
    steps, batch = x.shape[0], x.shape[-1]
    flat = matrix @ x.permute(1, 2, 0, 3).flatten(2)
    found: Tensor = flat.unflatten(2, (steps, batch)).permute(2, 0, 1, 3).contiguous()
    return found


def driven(x: Tensor, weights: Weights, *, both: bool = False) -> Tensor:
    """W_ih x_t + b_ih, and b_hh where `both` are meant, at every step, (T, R, G H, B)."""
    found = times(weights["weight_ih"], x)
    names = ("bias_ih", "bias_hh") if both else ("bias_ih",)
    biases = [weights[name] for name in names if name in weights]
    return found + sum(biases[1:], biases[0])[..., None] if biases else found


def earlier(states: Tensor, start: Tensor) -> Tensor:
    """s_0 .. s_{T-1} of s_1 .. s_T (T, R, S, B)."""
    return torch.cat([start[None], states[:-1]])


def backwards(*parts: Tensor) -> zip[tuple[Tensor, ...]]:
    """Each step's own part of all of `parts`, the newest first."""
    return zip(*(reversed(part.unbind(0)) for part in parts), strict=True)


def forwards(*parts: Tensor) -> zip[tuple[Tensor, ...]]:
    """Each step's own part of all of `parts`, the oldest first."""
    return zip(*(part.unbind(0) for part in parts), strict=True)


BEND: Mapping[str, Callable[[Tensor], Tensor]] = {
    "tanh": lambda z: z.tanh_(),
    "relu": lambda z: z.clamp_min_(0.0),
    "linear": lambda z: z,
}
"""phi, in place."""
SLOPE: Mapping[str, Callable[[Tensor], Tensor]] = {
    "tanh": lambda h: 1 - h.square(),
    "relu": lambda h: (h > 0).to(h.dtype),
    "linear": torch.ones_like,
}
"""phi' from phi."""


class _RNNSteps(torch.autograd.Function):
    """h_1 .. h_T, (T, R, H, B), from what drives them, z (T, R, H, B), W_hh (R, H, H) and h_0 (R, H, B)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, w: Tensor, start: Tensor, phi: str) -> Tensor:
        """Walk."""
        states, h, bend = torch.empty_like(z), start, BEND[phi]
        for drive, new in forwards(z, states):
            torch.baddbmm(drive, w, h, out=new)
            h = bend(new)
        ctx.save_for_backward(states, w, start)
        ctx.phi = phi
        return states

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Sweep."""
        states, w, start = ctx.saved_tensors
        deltas, back, total = torch.empty_like(states), torch.zeros_like(start), torch.zeros_like(w)
        turned, before = w.mT.contiguous(), earlier(states, start)
        for g, own, delta, h in backwards(grads[0], SLOPE[ctx.phi](states), deltas, before):
            torch.mul(own, back.add_(g), out=delta)
            torch.bmm(turned, delta, out=back)
            total.baddbmm_(delta, h.mT)
        return deltas, total, back, None


def rnn(x: Tensor, weights: Weights, start: Tensor, nonlinearity: str) -> Tensor:
    """Outputs (T, R, H, B) of x (T, R, I, B) from h_0 (R, H, B); weights as in torch.nn, each (R, ...)."""
    found: Tensor = applied(_RNNSteps, driven(x, weights, both=True), weights["weight_hh"], start, nonlinearity)
    return found


class _GRUSteps(torch.autograd.Function):
    """h_1 .. h_T, (T, R, H, B), from i (T, R, 3H, B), W_hh (R, 3H, H), b_hh (R, 3H) and h_0 (R, H, B)."""

    @staticmethod
    def forward(ctx: Any, i: Tensor, w: Tensor, bias: Tensor, start: Tensor) -> Tensor:
        """Walk."""
        hidden = start.shape[1]
        gates, states, h = torch.empty_like(i), i.new_empty(len(i), *start.shape), start
        own, b = torch.empty_like(i[0]), bias[..., None].expand_as(i[0]).contiguous()
        through = torch.empty_like(states)
        for arrives, gate, kept, new in forwards(i, gates, through, states):
            torch.baddbmm(b, w, h, out=own)
            opened, candidate = gate.split([2 * hidden, hidden], 1)
            torch.add(arrives[:, : 2 * hidden], own[:, : 2 * hidden], out=opened).sigmoid_()
            r, z = opened.chunk(2, 1)
            kept.copy_(own[:, 2 * hidden :])
            torch.addcmul(arrives[:, 2 * hidden :], r, kept, out=candidate).tanh_()
            torch.lerp(candidate, h, z, out=new)
            h = new
        ctx.save_for_backward(gates, through, states, w, start)
        return states

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Sweep: each delta is a slope of the step times the adjoint of h_t."""
        gates, through, states, w, start = ctx.saved_tensors
        r, z, n = gates.chunk(3, 2)
        before, hidden = earlier(states, start), start.shape[1]
        to_n = (1 - z) * (1 - n * n)
        slopes = torch.stack([to_n * through * r * (1 - r), (before - n) * z * (1 - z), to_n * r], 2)
        deltas, adjoints = torch.empty_like(gates), torch.empty_like(states)
        back, total, turned = torch.zeros_like(start), torch.zeros_like(w), w.mT.contiguous()
        for g, slope, delta, keep, a, h in backwards(grads[0], slopes, deltas, z, adjoints, before):
            torch.add(back, g, out=a)
            torch.mul(slope, a[:, None], out=delta.unflatten(1, (3, hidden)))
            torch.mul(keep, a, out=back)
            back.baddbmm_(turned, delta)
            total.baddbmm_(delta, h.mT)
        bias = deltas.sum((0, 3))
        torch.mul(to_n, adjoints, out=deltas[:, :, 2 * hidden :])
        return deltas, total, bias, back


def gru(x: Tensor, weights: Weights, start: Tensor) -> Tensor:
    """Outputs (T, R, H, B) of x (T, R, I, B) from h_0 (R, H, B); weights as in torch.nn, each (R, ...)."""
    w = weights["weight_hh"]
    bias = weights["bias_hh"] if "bias_hh" in weights else w.new_zeros(w.shape[:2])
    found: Tensor = applied(_GRUSteps, driven(x, weights), w, bias, start)
    return found


class _LSTMSteps(torch.autograd.Function):
    """h_1 .. h_T, (T, R, H, B), from z (T, R, 4H, B), W_hh (R, 4H, H), h_0 and c_0 (R, H, B)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, w: Tensor, h: Tensor, c: Tensor) -> Tensor:
        """Walk."""
        hidden, first = h.shape[1], (h, c)
        gates, outputs = torch.empty_like(z), z.new_empty(len(z), *h.shape)
        cells, squashed = torch.empty_like(outputs), torch.empty_like(outputs)
        for drive, gate, new_h, new_c, flat in forwards(z, gates, outputs, cells, squashed):
            torch.baddbmm(drive, w, h, out=gate)
            gate[:, : 2 * hidden].sigmoid_()
            gate[:, 3 * hidden :].sigmoid_()
            i, f, g, o = gate.chunk(4, 1)
            g.tanh_()
            torch.mul(f, c, out=new_c).addcmul_(i, g)
            torch.tanh(new_c, out=flat)
            torch.mul(o, flat, out=new_h)
            h, c = new_h, new_c
        ctx.save_for_backward(gates, outputs, cells, squashed, w, *first)
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Sweep."""
        gates, outputs, cells, squashed, w, h0, c0 = ctx.saved_tensors
        i, f, g, o = gates.chunk(4, 2)
        hidden, before, deltas = h0.shape[1], earlier(outputs, h0), torch.empty_like(gates)
        to_cell = torch.stack([g * i * (1 - i), earlier(cells, c0) * f * (1 - f), i * (1 - g * g)], 2)
        to_out, opened = squashed * o * (1 - o), o * (1 - squashed * squashed)
        back_h, back_c = torch.zeros_like(h0), torch.zeros_like(c0)
        total, turned = torch.zeros_like(w), w.mT.contiguous()
        rows = backwards(grads[0], to_cell, to_out, opened, f, deltas, before)
        for gh, inner, out, through, keep, delta, h in rows:
            back_h.add_(gh)
            back_c.addcmul_(through, back_h)
            parts = delta.unflatten(1, (4, hidden))
            torch.mul(inner, back_c[:, None], out=parts[:, :3])
            torch.mul(out, back_h, out=parts[:, 3])
            torch.bmm(turned, delta, out=back_h)
            back_c.mul_(keep)
            total.baddbmm_(delta, h.mT)
        return deltas, total, back_h, back_c


def lstm(x: Tensor, weights: Weights, start: Tensor) -> Tensor:
    """Outputs (T, R, H, B) of x (T, R, I, B) from (h_0, c_0) (R, 2H, B); weights as in torch.nn, each (R, ...)."""
    h, c = (part.contiguous() for part in start.chunk(2, 1))
    found: Tensor = applied(_LSTMSteps, driven(x, weights, both=True), weights["weight_hh"], h, c)
    return found


class _LRUSteps(torch.autograd.Function):
    """s_1 .. s_T, complex (T, R, H, B), from what drives them, u (T, R, H, B), lambda (R, H, 1) and s_0 (R, H, B)."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, turn: Tensor, start: Tensor) -> Tensor:
        """Walk."""
        states, s = torch.empty_like(u), start
        for drive, new in forwards(u, states):
            torch.addcmul(drive, turn, s, out=new)
            s = new
        ctx.save_for_backward(states, turn, start)
        return states

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sweep with the conjugate, as autograd of complex numbers has it."""
        states, turn, start = ctx.saved_tensors
        adjoints, back, turned = torch.empty_like(states), torch.zeros_like(start), turn.conj().resolve_conj()
        for g, a in backwards(grads[0], adjoints):
            torch.addcmul(g, turned, back, out=a)
            back = a
        return adjoints, (adjoints * earlier(states, start).conj()).sum((0, 3))[..., None], back * turned


def lru(x: Tensor, weights: Weights, start: Tensor) -> Tensor:
    """Outputs (T, R, O, B) of x (T, R, I, B) from (Re, Im) of s_0 (R, 2H, B); weights of the family `lru`."""
    decay, phase = weights["nu"].exp(), weights["theta"].exp()
    size, gamma = torch.exp(-decay), torch.sqrt(-torch.expm1(-2 * decay))
    turn = torch.complex(size * torch.cos(phase), size * torch.sin(phase))[..., None]
    drive = times(weights["b"] * torch.cat([gamma, gamma], -1)[..., None], x)
    u, first = (torch.complex(*(p.contiguous() for p in part.chunk(2, -2))) for part in (drive, start))
    found: Tensor = applied(_LRUSteps, u, turn, first)
    return times(weights["c"], torch.cat([found.real, found.imag], 2)) + times(weights["d"], x)

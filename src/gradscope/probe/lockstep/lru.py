"""Copies of a linear recurrent unit in lockstep: s_t = lambda s_{t-1} + gamma B x_t, y_t = C s_t + D x_t."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradscope.probe.lockstep.weights import Weights, applied, backwards, earlier, forwards, times


class _Walk(torch.autograd.Function):
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
    found: Tensor = applied(_Walk, u, turn, first)
    return times(weights["c"], torch.cat([found.real, found.imag], 2)) + times(weights["d"], x)

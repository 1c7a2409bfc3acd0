"""Copies of an Elman layer in lockstep: h_t = phi(z_t + W_hh h_{t-1}), swept back as delta_t = phi'(h_t) a_t."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from gradscope.probe.lockstep.weights import Weights, applied, backwards, driven, earlier, forwards

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


class _Walk(torch.autograd.Function):
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
    found: Tensor = applied(_Walk, driven(x, weights, both=True), weights["weight_hh"], start, nonlinearity)
    return found

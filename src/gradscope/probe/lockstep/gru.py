"""Copies of a GRU layer in lockstep, gates as in torch.nn.GRU: h_t = (1 - z) n + z h, n = tanh(W x + r (U h + b))."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradscope.probe.lockstep.weights import Weights, applied, backwards, driven, earlier, forwards


class _Walk(torch.autograd.Function):
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
    found: Tensor = applied(_Walk, driven(x, weights), w, bias, start)
    return found

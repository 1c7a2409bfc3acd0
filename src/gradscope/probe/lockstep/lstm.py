"""Copies of an LSTM layer in lockstep, gates i, f, g, o as in torch.nn.LSTM: c_t = f c + i g, h_t = o tanh c_t."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradscope.probe.lockstep.weights import Weights, applied, backwards, driven, earlier, forwards


class _Walk(torch.autograd.Function):
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
    found: Tensor = applied(_Walk, driven(x, weights, both=True), weights["weight_hh"], h, c)
    return found

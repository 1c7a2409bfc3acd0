"""LSTM (Hochreiter & Schmidhuber 1997; forget gate of Gers et al. 2000), as torch.nn.LSTM: gates i, f, g, o.

LSTM with a projected output (Sak et al. 2014), as torch.nn.LSTM(proj_size=P): h = W_hr (o tanh(c)).
The state is (h, c): P numbers that the gates and the next layer read, and the H numbers of the cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gradscope.models.cell import At, SweptSteps, pull_steps
from gradscope.models.cell_parts import (
    HiddenOutput,
    OuterWeights,
    Stretch,
    driven,
    input_part,
    log_determinant,
    pieces,
    state_part,
    torch_outputs,
)
from gradscope.models.family import Draw, Family, Init, StackOptions, recurrent_matrix, stack


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


@dataclass(frozen=True)
class Options(StackOptions):
    """Options of `lstm`."""

    forget_bias: float | None = None
    """b_ih + b_hh of the forget gate; drawn as in torch.nn when absent."""
    init: Init = "uniform"
    gain: float = 1.0
    bias: bool = True


class LSTMCell:
    """One layer; the state is (h, c) side by side, 2H numbers."""

    def __init__(self, name: str, weights: dict[str, Tensor]) -> None:
        """Take weight_ih (4H, I), weight_hh (4H, H) and, together or not at all, bias_ih and bias_hh (4H)."""
        self.name, self.parameters = name, weights
        self.output_size, self.input_size = weights["weight_hh"].shape[1], weights["weight_ih"].shape[1]
        self.state_size = 2 * self.output_size

    def initial_state(self, batch: int) -> Tensor:
        """Zeros, as torch.nn.LSTM."""
        return self.parameters["weight_hh"].new_zeros(batch, self.state_size)

    def step(self, x: Tensor, s: Tensor) -> Tensor:
        """(h_t, c_t)."""
        h, c = s.chunk(2, -1)
        i, f, g, o = (input_part(x, self.parameters) + state_part(h, self.parameters)).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return torch.cat([o.sigmoid() * c.tanh(), c], -1)

    def output(self, x: Tensor, s: Tensor) -> Tensor:
        """h_t."""
        return s[..., : self.output_size]

    def linearize(self, x: Tensor, s0: Tensor) -> LSTMLinearization:
        """Run over x (T, batch, I)."""
        return LSTMLinearization(self, x, walk(self.parameters, x, s0))


class LSTMLinearization(HiddenOutput):
    """dc' = f dc + [g i', c f', i g'] dz and dh' = tanh(c') o' dz_o + o (1 - tanh^2 c') dc', dz = W_hh dh + W_ih dx."""

    def __init__(self, cell: LSTMCell, x: Tensor, walked: Walked) -> None:
        """Keep the input (T, batch, I) and what the walk over it left."""
        self.cell, self.states, self.hidden, self.width = cell, walked.states, cell.output_size, cell.state_size
        h, c = walked.states.split(self.hidden, -1)
        i, self.keep, g, o = walked.gates.chunk(4, -1)
        self.outputs, self.cell_to_hidden = h[1:], walked.cell_to_hidden
        self.to_cell, self.to_hidden = walked.slopes.split([3 * self.hidden, self.hidden], -1)
        self.values = {"gate.input": i, "gate.forget": self.keep, "candidate": g, "cell": c[1:], "gate.output": o}
        self.outer = OuterWeights(cell.parameters, x, h[:-1], slice(None), (slice(None),))

    def push(self, at: At, ds: Tensor, dx: Tensor | None = None) -> Tensor:
        """(dh', dc')."""
        dh, dc = ds.chunk(2, -1)
        dz = dh @ self.cell.parameters["weight_hh"].T
        if dx is not None:
            dz = dz + dx @ self.cell.parameters["weight_ih"].T
        inner, out = dz[..., : 3 * self.hidden], dz[..., 3 * self.hidden :]
        di, df, dg = (self.to_cell[at] * inner).chunk(3, -1)
        new_c = self.keep[at] * dc + di + df + dg
        return torch.cat([self.to_hidden[at] * out + self.cell_to_hidden[at] * new_c, new_c], -1)

    def pull(self, at: At, a: Tensor) -> tuple[Tensor, Tensor]:
        """Adjoint of (h, c) before the step; delta is the adjoint of z, (..., batch, 4H)."""
        ah, ac = a.chunk(2, -1)
        ac = ac + self.cell_to_hidden[at] * ah
        inner = self.to_cell[at].unflatten(-1, (3, self.hidden)) * ac[..., None, :]
        delta = torch.cat([inner.flatten(-2), self.to_hidden[at] * ah], -1)
        return torch.cat([delta @ self.cell.parameters["weight_hh"], self.keep[at] * ac], -1), delta

    def pull_along(self, at: slice, a: Tensor, seen: Tensor | None) -> SweptSteps:
        """A stretch, with the parts of delta written where they belong."""
        hidden, u, n = self.hidden, self.cell.parameters["weight_hh"], at.stop - at.start
        found = Stretch(a, seen, n, 4 * hidden)
        inner, out = found.deltas.unflatten(-1, (4, hidden)).split([3, 1], -2)
        rows = found.steps(
            found.adjoints[..., :hidden],
            found.adjoints[..., hidden:],
            self.cell_to_hidden[at],
            self.to_cell[at].unflatten(-1, (3, hidden)),
            self.to_hidden[at],
            self.keep[at],
            found.deltas,
            inner,
            out[..., 0, :],
            found.back[:-1, :, :hidden],
            found.back[:-1, :, hidden:],
        )
        for ah, ac, opened, to_cell, to_hidden, keep, delta, own, own_out, bh, bc in rows:
            through = torch.addcmul(ac, opened, ah)
            torch.mul(to_cell, through[:, None], out=own)
            torch.mul(to_hidden, ah, out=own_out)
            torch.mm(delta, u, out=bh)
            torch.mul(keep, through, out=bc)
        return found.pulled()

    def apply(self, at: int, q: Tensor) -> Tensor:
        """J_t Q: one product with the columns of J_t that belong to h; those of c are diagonal."""
        new, qc = self._columns_of_h(at) @ q[:, : self.hidden], q[:, self.hidden :]
        keep = self.keep[at][..., None]
        new[:, self.hidden :].addcmul_(keep, qc)
        new[:, : self.hidden].addcmul_(keep * self.cell_to_hidden[at][..., None], qc)
        return new

    def apply_transposed(self, at: int, q: Tensor) -> Tensor:
        """J_t^T Q."""
        found, qh, qc = torch.empty_like(q), q[:, : self.hidden], q[:, self.hidden :]
        torch.bmm(self._columns_of_h(at).mT, q, out=found[:, : self.hidden])
        below = torch.addcmul(qc, self.cell_to_hidden[at][..., None], qh, out=found[:, self.hidden :])
        below.mul_(self.keep[at][..., None])
        return found

    def jacobians(self, at: slice) -> Tensor:
        """J_t."""
        left, keep = self._columns_of_h(at), self.keep[at]
        found = left.new_zeros(*left.shape[:-1], self.width)
        found[..., : self.hidden] = left
        found[..., self.hidden :, self.hidden :].diagonal(dim1=-2, dim2=-1).copy_(keep)
        found[..., : self.hidden, self.hidden :].diagonal(dim1=-2, dim2=-1).copy_(keep * self.cell_to_hidden[at])
        return found.transpose(0, 1)

    def log_volume(self, at: slice) -> Tensor:
        """Ln |det W_ho| + sum ln f + sum ln |tanh(c') o'|: subtracting the rows of c' from those of h' leaves W_ho."""
        scale: Tensor = self.keep[at].double().log() + self.to_hidden[at].double().abs().log()
        output = self.cell.parameters["weight_hh"][3 * self.hidden :]
        return log_determinant(output) + scale.sum(-1)

    def _columns_of_h(self, at: At) -> Tensor:
        """d(h', c')/dh, (..., batch, 2H, H)."""
        through = self.cell.parameters["weight_hh"].unflatten(0, (4, self.hidden))
        slopes = self.to_cell[at].unflatten(-1, (3, self.hidden))[..., None]
        found: Tensor = slopes.new_empty(*self.keep[at].shape[:-1], self.width, self.hidden)
        to_c, to_h = found[..., self.hidden :, :], found[..., : self.hidden, :]
        torch.mul(slopes[..., 0, :, :], through[0], out=to_c)
        to_c.addcmul_(slopes[..., 1, :, :], through[1]).addcmul_(slopes[..., 2, :, :], through[2])
        torch.mul(self.to_hidden[at][..., None], through[3], out=to_h)
        to_h.addcmul_(self.cell_to_hidden[at][..., None], to_c)
        return found

    def pull_input(self, at: At, delta: Tensor) -> Tensor:
        """W_ih^T delta."""
        return delta @ self.cell.parameters["weight_ih"]

    def weight_norms(self, at: slice, delta: Tensor) -> Tensor:
        """Squared norms of the steps' contributions."""
        return self.outer.norms(at, delta)

    def weight_gradient(self, at: slice, delta: Tensor) -> dict[str, Tensor]:
        """Summed contributions."""
        return self.outer.gradient(at, delta)


def make_cell(options: Options, name: str, input_size: int, draw: Draw) -> LSTMCell:
    """One layer with fresh weights."""
    hidden, bound = options.hidden, options.hidden**-0.5
    blocks = [recurrent_matrix(options.init, options.gain, hidden, draw) for _ in range(4)]
    weights = {"weight_ih": draw.uniform(4 * hidden, input_size, bound=bound), "weight_hh": torch.cat(blocks)}
    if options.bias:
        weights |= {"bias_ih": draw.uniform(4 * hidden, bound=bound), "bias_hh": draw.uniform(4 * hidden, bound=bound)}
        if options.forget_bias is not None:
            weights["bias_ih"][hidden : 2 * hidden] = options.forget_bias
            weights["bias_hh"][hidden : 2 * hidden] = 0.0
    return LSTMCell(name, weights)


FAMILY = Family("lstm", Options, stack(make_cell), "LSTM with input, forget and output gates")


class ProjectedLSTMCell:
    """One layer; the state is (h, c) side by side, P + H numbers."""

    def __init__(self, name: str, weights: dict[str, Tensor]) -> None:
        """Take weight_ih (4H, I), weight_hh (4H, P), weight_hr (P, H) and, together or not at all, both biases (4H)."""
        self.name, self.parameters = name, weights
        self.input_size = weights["weight_ih"].shape[1]
        self.output_size, self.cell_size = weights["weight_hr"].shape
        self.state_size = self.output_size + self.cell_size

    def initial_state(self, batch: int) -> Tensor:
        """Zeros, as torch.nn.LSTM."""
        return self.parameters["weight_hh"].new_zeros(batch, self.state_size)

    def step(self, x: Tensor, s: Tensor) -> Tensor:
        """(h_t, c_t)."""
        h, c = s[..., : self.output_size], s[..., self.output_size :]
        i, f, g, o = (input_part(x, self.parameters) + state_part(h, self.parameters)).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return torch.cat([(o.sigmoid() * c.tanh()) @ self.parameters["weight_hr"].T, c], -1)

    def output(self, x: Tensor, s: Tensor) -> Tensor:
        """h_t."""
        return s[..., : self.output_size]

    def linearize(self, x: Tensor, s0: Tensor) -> ProjectedLSTMLinearization:
        """Run over x (T, batch, I)."""
        z, width = driven(x, self.parameters), self.output_size
        states, u = z.new_empty(len(z) + 1, *s0.shape), self.parameters["weight_hh"].T
        states[0] = s0
        for t in range(len(z)):
            i, f, g, o = z[t].addmm_(states[t, :, :width], u).chunk(4, -1)
            c = f.sigmoid() * states[t, :, width:] + i.sigmoid() * g.tanh()
            states[t + 1, :, width:] = c
            states[t + 1, :, :width] = (o.sigmoid() * c.tanh()) @ self.parameters["weight_hr"].T
        return ProjectedLSTMLinearization(self, x, z, states)


class ProjectedLSTMLinearization(HiddenOutput):
    """dc' = f dc + [g i', c f', i g'] dz as in an LSTM; dh' = W_hr (tanh(c') o' dz_o + o (1 - tanh^2 c') dc')."""

    def __init__(self, cell: ProjectedLSTMCell, x: Tensor, z: Tensor, states: Tensor) -> None:
        """Keep gate pre-activations z (T, batch, 4H) and states (T + 1, batch, P + H)."""
        self.cell, self.states, self.hidden, self.width = cell, states, cell.output_size, cell.state_size
        self.outputs, self.gates = states[1:, :, : self.hidden], slice(0, 4 * cell.cell_size)
        before, after = states[:-1, :, self.hidden :], states[1:, :, self.hidden :]
        zi, zf, zg, zo = z.chunk(4, -1)
        i, f, g, o = zi.sigmoid(), zf.sigmoid(), zg.tanh(), zo.sigmoid()
        squashed = after.tanh()
        self.keep, self.unprojected = f, o * squashed
        # sigmoid(-z) is 1 - sigmoid(z) without the cancellation near one; likewise 1/cosh^2 for 1 - tanh^2.
        slopes = (g * i * (-zi).sigmoid(), before * f * (-zf).sigmoid(), i * zg.cosh().reciprocal().square())
        self.to_cell = torch.cat(slopes, -1)
        self.to_hidden = squashed * o * (-zo).sigmoid()
        self.cell_to_hidden = o * after.cosh().reciprocal().square()
        self.values = {"gate.input": i, "gate.forget": f, "candidate": g, "cell": after, "gate.output": o}
        self.outer = OuterWeights(cell.parameters, x, states[:-1, :, : self.hidden], self.gates, (self.gates,))

    def push(self, at: At, ds: Tensor, dx: Tensor | None = None) -> Tensor:
        """(dh', dc')."""
        weights, size = self.cell.parameters, self.cell.cell_size
        dz = ds[..., : self.hidden] @ weights["weight_hh"].T
        if dx is not None:
            dz = dz + dx @ weights["weight_ih"].T
        di, df, dg = (self.to_cell[at] * dz[..., : 3 * size]).chunk(3, -1)
        new_c = self.keep[at] * ds[..., self.hidden :] + di + df + dg
        through = self.to_hidden[at] * dz[..., 3 * size :] + self.cell_to_hidden[at] * new_c
        return torch.cat([through @ weights["weight_hr"].T, new_c], -1)

    def pull(self, at: At, a: Tensor) -> tuple[Tensor, Tensor]:
        """Adjoint of (h, c) before the step; delta is the adjoint of z and that of h_t, (..., batch, 4H + P)."""
        weights, ah = self.cell.parameters, a[..., : self.hidden]
        through = ah @ weights["weight_hr"]
        ac = a[..., self.hidden :] + self.cell_to_hidden[at] * through
        inner = self.to_cell[at].unflatten(-1, (3, self.cell.cell_size)) * ac[..., None, :]
        dz = torch.cat([inner.flatten(-2), self.to_hidden[at] * through], -1)
        return torch.cat([dz @ weights["weight_hh"], self.keep[at] * ac], -1), torch.cat([dz, ah], -1)

    def pull_along(self, at: slice, a: Tensor, seen: Tensor | None) -> SweptSteps:
        """A stretch, step by step."""
        return pull_steps(self, at, a, seen)

    def pull_input(self, at: At, delta: Tensor) -> Tensor:
        """W_ih^T of the gates' part."""
        return delta[..., self.gates] @ self.cell.parameters["weight_ih"]

    def weight_norms(self, at: slice, delta: Tensor) -> Tensor:
        """Squared norms of the steps' contributions: those of the gates, and |a_h|^2 |o tanh(c)|^2 of W_hr."""
        projected = delta[..., self.gates.stop :].double().square().sum(-1)
        return self.outer.norms(at, delta) + projected * self.unprojected[at].double().square().sum(-1)

    def weight_gradient(self, at: slice, delta: Tensor) -> dict[str, Tensor]:
        """Summed contributions."""
        projected = delta[..., self.gates.stop :].flatten(0, 1)
        return self.outer.gradient(at, delta) | {"weight_hr": projected.T @ self.unprojected[at].flatten(0, 1)}

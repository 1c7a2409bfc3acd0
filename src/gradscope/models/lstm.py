"""LSTM (Hochreiter & Schmidhuber 1997; forget gate of Gers et al. 2000), as torch.nn.LSTM: gates i, f, g, o."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradscope.models.cell import At
from gradscope.models.family import Family, StackOptions, stack
from gradscope.models.gated import HiddenOutput, OuterWeights, input_part, state_part
from gradscope.models.initialize import Draw, Init, recurrent_matrix


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
        z, hidden = input_part(x, self.parameters), self.output_size
        if "bias_hh" in self.parameters:
            z = z + self.parameters["bias_hh"]
        states, u = z.new_empty(len(z) + 1, *s0.shape), self.parameters["weight_hh"].T
        states[0] = s0
        for t in range(len(z)):
            pre, new = z[t].addmm_(states[t, :, :hidden], u), states[t + 1]
            gates, c = pre.sigmoid(), new[:, hidden:]
            torch.mul(gates[:, :hidden], pre[:, 2 * hidden : 3 * hidden].tanh(), out=c)
            c.addcmul_(gates[:, hidden : 2 * hidden], states[t, :, hidden:])
            torch.mul(gates[:, 3 * hidden :], c.tanh(), out=new[:, :hidden])
        return LSTMLinearization(self, x, z, states)


class LSTMLinearization(HiddenOutput):
    """dc' = f dc + [g i', c f', i g'] dz and dh' = tanh(c') o' dz_o + o (1 - tanh^2 c') dc', dz = W_hh dh + W_ih dx."""

    def __init__(self, cell: LSTMCell, x: Tensor, z: Tensor, states: Tensor) -> None:
        """Keep gate pre-activations z (T, batch, 4H) and states (T + 1, batch, 2H)."""
        self.cell, self.states, self.hidden, self.width = cell, states, cell.output_size, cell.state_size
        self.outputs = states[1:, :, : self.hidden]
        before, after = states[:-1, :, self.hidden :], states[1:, :, self.hidden :]
        zi, zf, zg, zo = z.chunk(4, -1)
        i, f, g, o = zi.sigmoid(), zf.sigmoid(), zg.tanh(), zo.sigmoid()
        squashed = after.tanh()
        self.keep = f
        # sigmoid(-z) is 1 - sigmoid(z) without the cancellation near one; likewise 1/cosh^2 for 1 - tanh^2.
        to_cell = (g * i * (-zi).sigmoid(), before * f * (-zf).sigmoid(), i * _sech2(zg))
        self.to_cell = torch.cat(to_cell, -1)
        self.to_hidden = squashed * o * (-zo).sigmoid()
        self.cell_to_hidden = o * _sech2(after)
        self.values = {"gate.input": i, "gate.forget": f, "candidate": g, "cell": after, "gate.output": o}
        self.outer = OuterWeights(cell.parameters, x, states[:-1, :, : self.hidden], slice(None), (slice(None),))

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

    def pull_input(self, at: At, delta: Tensor) -> Tensor:
        """W_ih^T delta."""
        return delta @ self.cell.parameters["weight_ih"]

    def weight_norms(self, at: slice, delta: Tensor) -> Tensor:
        """Squared norms of the steps' contributions."""
        return self.outer.norms(at, delta)

    def weight_gradient(self, at: slice, delta: Tensor) -> dict[str, Tensor]:
        """Summed contributions."""
        return self.outer.gradient(at, delta)


def _sech2(z: Tensor) -> Tensor:
    return z.cosh().reciprocal().square()


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

"""LSTM with a projected output (Sak et al. 2014), as torch.nn.LSTM(proj_size=P): h = W_hr (o tanh(c)).

The state is (h, c): P numbers that the gates and the next layer read, and the H numbers of the cell.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradscope.models.cell import At, Pulled, pull_steps
from gradscope.models.gated import HiddenOutput, OuterWeights, driven, input_part, state_part


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

    def pull_along(self, at: slice, a: Tensor, seen: Tensor | None) -> Pulled:
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

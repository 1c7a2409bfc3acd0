"""GRU (Cho et al. 2014) as torch.nn.GRU: n = tanh(W_in x + b_in + r (W_hn h + b_hn)), h' = (1 - z) n + z h."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradscope.models.cell import At, SweptSteps
from gradscope.models.cell_parts import (
    HiddenOutput,
    OuterWeights,
    Stretch,
    input_part,
    pieces,
    state_part,
    torch_outputs,
)
from gradscope.models.family import Draw, Family, Init, StackOptions, recurrent_matrix, stack


@dataclass(frozen=True)
class Options(StackOptions):
    """Options of `gru`."""

    update_bias: float | None = None
    """b_ih + b_hh of the update gate z, which keeps the old state when it is near one; as in torch.nn when absent."""
    init: Init = "uniform"
    gain: float = 1.0
    bias: bool = True


class GRUCell:
    """One layer; the state is h. Gate order r, z, n."""

    def __init__(self, name: str, weights: dict[str, Tensor]) -> None:
        """Take weight_ih (3H, I), weight_hh (3H, H) and, together or not at all, bias_ih and bias_hh (3H)."""
        self.name, self.parameters = name, weights
        self.state_size, self.input_size = weights["weight_hh"].shape[1], weights["weight_ih"].shape[1]
        self.output_size = self.state_size

    def initial_state(self, batch: int) -> Tensor:
        """Zeros, as torch.nn.GRU."""
        return self.parameters["weight_hh"].new_zeros(batch, self.state_size)

    def step(self, x: Tensor, s: Tensor) -> Tensor:
        """h_t."""
        xr, xz, xn = input_part(x, self.parameters).chunk(3, -1)
        hr, hz, hn = state_part(s, self.parameters).chunk(3, -1)
        z = (xz + hz).sigmoid()
        return (1 - z) * (xn + (xr + hr).sigmoid() * hn).tanh() + z * s

    def output(self, x: Tensor, s: Tensor) -> Tensor:
        """h_t itself."""
        return s

    def linearize(self, x: Tensor, s0: Tensor) -> GRULinearization:
        """Run over x (T, batch, I): torch says what every step hears, and its gates follow for many steps at once."""
        z, states = input_part(x, self.parameters), s0.new_empty(len(x) + 1, *s0.shape)
        gates, states[0] = torch.empty_like(z), s0
        states[1:] = torch_outputs(torch.gru, x, (s0,), self.parameters)
        for at in pieces(z):
            h = states[:-1][at]
            gates[at] = state_part(h, self.parameters)
            _, keep, new = _write_slopes(z[at], gates[at], h)
            states[1:][at] = new + keep * (h - new)
        return GRULinearization(self, x, states, gates, z)


def _write_slopes(zx: Tensor, zh: Tensor, h: Tensor) -> tuple[Tensor, ...]:
    """Write r, z and n over the state's part, and over the input's what a change of their pre-activations does to h'.

    Returns r, z and n.
    """
    both = 2 * h.shape[-1]
    pre, opened, m = zx[..., :both].add_(zh[..., :both]), zh[..., :both], zh[..., both:].clone()
    torch.sigmoid(pre, out=opened)
    r, z, n = zh.chunk(3, -1)
    pre_n = torch.addcmul(zx[..., both:], r, m)
    torch.tanh(pre_n, out=n)
    # sigmoid(-z) is 1 - sigmoid(z) without the cancellation near one; likewise 1/cosh^2 for 1 - tanh^2.
    shut_r, shut_z = (-pre).sigmoid_().chunk(2, -1)
    from_r, from_z, from_n = zx.chunk(3, -1)
    torch.mul(shut_z, pre_n.cosh_().reciprocal_().square_(), out=from_n)
    torch.mul(from_n * m, r * shut_r, out=from_r)
    torch.mul(h - n, z * shut_z, out=from_z)
    return r, z, n


class GRULinearization(HiddenOutput):
    """dh' = (1 - z) n' (W_in dx + r W_hn dh + m r' dz_r) + (h - n) z' dz_z + z dh, with m = W_hn h + b_hn."""

    def __init__(self, cell: GRUCell, x: Tensor, states: Tensor, gates: Tensor, slopes: Tensor) -> None:
        """Keep what the walk left.

        Args:
            cell: the layer.
            x: its input, (T, batch, I).
            states: (T + 1, batch, H).
            gates: r, z and n, (T, batch, 3H).
            slopes: (1 - z) n' m r', (h - n) z' and (1 - z) n', (T, batch, 3H).
        """
        self.cell, self.states, self.outputs = cell, states, states[1:]
        self.hidden = self.width = hidden = cell.state_size
        self.reset, self.keep, n = gates.chunk(3, -1)
        self.from_r, self.from_z, self.from_n = slopes.chunk(3, -1)
        self.values = {"gate.reset": self.reset, "gate.update": self.keep, "candidate": n}
        through_h = (slice(0, 2 * hidden), slice(3 * hidden, None))
        self.outer = OuterWeights(cell.parameters, x, states[:-1], slice(0, 3 * hidden), through_h)

    def push(self, at: At, ds: Tensor, dx: Tensor | None = None) -> Tensor:
        """Dh'."""
        dr, dz, dm = (ds @ self.cell.parameters["weight_hh"].T).chunk(3, -1)
        new = self.keep[at] * ds
        dn = self.reset[at] * dm
        if dx is not None:
            xr, xz, xn = (dx @ self.cell.parameters["weight_ih"].T).chunk(3, -1)
            dr, dz, dn = dr + xr, dz + xz, dn + xn
        return new + self.from_n[at] * dn + self.from_r[at] * dr + self.from_z[at] * dz

    def pull(self, at: At, a: Tensor) -> tuple[Tensor, Tensor]:
        """W_hh^T [r, z, m] + z a; delta is (r, z, n, m) side by side, (..., batch, 4H)."""
        dn = self.from_n[at] * a
        delta = torch.cat([self.from_r[at] * a, self.from_z[at] * a, dn, self.reset[at] * dn], -1)
        through_h = torch.cat([delta[..., : 2 * self.hidden], delta[..., 3 * self.hidden :]], -1)
        return self.keep[at] * a + through_h @ self.cell.parameters["weight_hh"], delta

    def pull_along(self, at: slice, a: Tensor, seen: Tensor | None) -> SweptSteps:
        """A stretch, with the parts of delta written where they belong."""
        hidden, u = self.hidden, self.cell.parameters["weight_hh"]
        found = Stretch(a, seen, at.stop - at.start, 4 * hidden)
        through = a.new_empty(len(a), 3 * hidden)
        dr, dz, dn, dm = found.deltas.split(hidden, -1)
        slopes = (self.from_r[at], self.from_z[at], self.from_n[at], self.reset[at], self.keep[at])
        rows = found.steps(found.adjoints, *slopes, dr, dz, dn, dm, found.back[:-1])
        for adjoint, from_r, from_z, from_n, reset, keep, own_r, own_z, own_n, own_m, before in rows:
            torch.mul(from_r, adjoint, out=own_r)
            torch.mul(from_z, adjoint, out=own_z)
            torch.mul(from_n, adjoint, out=own_n)
            torch.mul(reset, own_n, out=own_m)
            torch.cat([own_r, own_z, own_m], -1, out=through)
            torch.addmm(torch.mul(keep, adjoint, out=before), through, u, out=before)
        return found.pulled()

    def apply(self, at: int, q: Tensor) -> Tensor:
        """J_t Q."""
        return self._matrix(at) @ q

    def apply_transposed(self, at: int, q: Tensor) -> Tensor:
        """J_t^T Q."""
        return self._matrix(at).mT @ q

    def jacobians(self, at: slice) -> Tensor:
        """J_t."""
        return self._matrix(at).transpose(0, 1)

    def _matrix(self, at: At) -> Tensor:
        """diag(z) + diag(from_r) W_hr + diag(from_z) W_hz + diag(from_n r) W_hn, (..., batch, H, H)."""
        reset, update, new = self.cell.parameters["weight_hh"].chunk(3)
        found = self.from_r[at][..., None] * reset
        found.addcmul_(self.from_z[at][..., None], update)
        found.addcmul_((self.from_n[at] * self.reset[at])[..., None], new)
        found.diagonal(dim1=-2, dim2=-1).add_(self.keep[at])
        return found

    def pull_input(self, at: At, delta: Tensor) -> Tensor:
        """W_ih^T [r, z, n]."""
        return delta[..., : 3 * self.hidden] @ self.cell.parameters["weight_ih"]

    def weight_norms(self, at: slice, delta: Tensor) -> Tensor:
        """Squared norms of the steps' contributions."""
        return self.outer.norms(at, delta)

    def weight_gradient(self, at: slice, delta: Tensor) -> dict[str, Tensor]:
        """Summed contributions."""
        return self.outer.gradient(at, delta)


def make_cell(options: Options, name: str, input_size: int, draw: Draw) -> GRUCell:
    """One layer with fresh weights."""
    hidden, bound = options.hidden, options.hidden**-0.5
    blocks = [recurrent_matrix(options.init, options.gain, hidden, draw) for _ in range(3)]
    weights = {"weight_ih": draw.uniform(3 * hidden, input_size, bound=bound), "weight_hh": torch.cat(blocks)}
    if options.bias:
        weights |= {"bias_ih": draw.uniform(3 * hidden, bound=bound), "bias_hh": draw.uniform(3 * hidden, bound=bound)}
        if options.update_bias is not None:
            weights["bias_ih"][hidden : 2 * hidden] = options.update_bias
            weights["bias_hh"][hidden : 2 * hidden] = 0.0
    return GRUCell(name, weights)


FAMILY = Family("gru", Options, stack(make_cell), "GRU with reset and update gates")

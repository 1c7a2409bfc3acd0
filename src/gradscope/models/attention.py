"""Causal self-attention (Vaswani et al. 2017) and the pre-norm transformer (Xiong et al. 2020): no recurrence.

One causal self-attention layer (Vaswani et al. 2017) in plain operations: the family without a recurrence.
y = W_o concat_h(softmax(Q_h K_h^T / sqrt(d)) V_h) + b_o with (Q, K, V) = W_in (W_x x + b_x + positions) + b_in.
The parts are those of the `transformer` family too.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from gradscope.errors import UsageError
from gradscope.models.family import Draw, Family, StackOptions
from gradscope.models.whole_module import WholeModule

Positions = Literal["sinusoidal", "none"]


@dataclass(frozen=True)
class Options(StackOptions):
    """Options of `attention`."""

    heads: int = 4
    positions: Positions = "sinusoidal"

    def __post_init__(self) -> None:
        """Refuse more than one layer and heads that do not divide the width."""
        super().__post_init__()
        require_heads(self.hidden, self.heads)
        if self.layers != 1:
            raise UsageError(
                f"attention has one layer, not layers={self.layers}; use transformer:layers={self.layers} for a stack"
            )


def require_heads(hidden: int, heads: int) -> None:
    """Check that every head gets the same number of units.

    Raises:
        UsageError: `heads` does not divide `hidden`.
    """
    if heads < 1:
        raise UsageError(f"heads={heads} cannot be: attention needs at least 1")
    if hidden % heads:
        fits = max(count for count in range(1, min(heads, hidden) + 1) if hidden % count == 0)
        raise UsageError(f"hidden={hidden} is not a multiple of heads={heads}; heads={fits} fits")


class Projection(nn.Module):
    """W x + b."""

    def __init__(self, inputs: int, outputs: int, draw: Draw) -> None:
        """Draw the weight (outputs, inputs) and bias (outputs) uniform within 1/sqrt(inputs), as torch.nn.Linear."""
        super().__init__()
        bound = max(inputs, 1) ** -0.5
        self.weight = nn.Parameter(draw.uniform(outputs, inputs, bound=bound))
        self.bias = nn.Parameter(draw.uniform(outputs, bound=bound))

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        return x @ self.weight.T + self.bias


class Embedding(nn.Module):
    """The input projection, with the place of each step added."""

    def __init__(self, input_size: int, hidden: int, positions: Positions, draw: Draw) -> None:
        """Draw the projection; the positions are fixed."""
        super().__init__()
        self.projection, self.positions = Projection(input_size, hidden, draw), positions

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """(..., T, input_size) -> (..., T, hidden); the first of the steps stands at position `start`."""
        projected: Tensor = self.projection(x)
        if self.positions == "none":
            return projected
        return projected + sinusoids(start, projected.shape[-2], projected.shape[-1]).to(projected)


def sinusoids(start: int, length: int, width: int) -> Tensor:
    """sin(t / 10000^(2i/width)) in the even features, cos in the odd ones, t = start, start + 1, ...; float64."""
    step = torch.arange(start, start + length, dtype=torch.float64)[:, None]
    angle = step / 10000 ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :width]


class SelfAttention(nn.Module):
    """Causal multi-head self-attention, its parameters named and laid out as in torch.nn.MultiheadAttention."""

    def __init__(self, hidden: int, heads: int, draw: Draw) -> None:
        """Draw in_proj_weight (3H, H) by Xavier's rule, as torch.nn does, and the output projection; biases zero."""
        super().__init__()
        self.heads = heads
        # 6 / (fan in + fan out) of the stacked matrix.
        self.in_proj_weight = nn.Parameter(draw.uniform(3 * hidden, hidden, bound=(6 / (4 * hidden)) ** 0.5))
        self.in_proj_bias = nn.Parameter(draw.place(torch.zeros(3 * hidden)))
        self.out_proj = Projection(hidden, hidden, draw)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (batch, T, H) and weights (batch, heads, T, T) of x (batch, T, H); every row of weights sums to 1."""
        query, key, value = self._project(x)
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        return self._mix(query, key, value, future)

    def unroll(self, steps: Sequence[Tensor], wanted: range) -> list[Tensor]:
        """Outputs at the steps `wanted` (from 0) from x_1 .. x_T, each (1, H), with operations of its own per step."""
        projected = [self._project(x) for x in steps]
        found = []
        for t in wanted:
            keys = torch.cat([key for _, key, _ in projected[: t + 1]], -2)
            values = torch.cat([value for _, _, value in projected[: t + 1]], -2)
            found.append(self._mix(projected[t][0], keys, values)[0])
        return found

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (..., heads, T, d)."""
        query, key, value = (x @ self.in_proj_weight.T + self.in_proj_bias).chunk(3, -1)
        return self._split(query), self._split(key), self._split(value)

    def _split(self, part: Tensor) -> Tensor:
        return part.reshape(*part.shape[:-1], self.heads, -1).transpose(-3, -2)

    def _mix(self, query: Tensor, key: Tensor, value: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        scores = query @ key.mT / math.sqrt(query.shape[-1])
        weights = (scores if hidden is None else scores.masked_fill(hidden, -math.inf)).softmax(-1)
        return self.out_proj((weights @ value).transpose(-3, -2).flatten(-2)), weights


class CausalAttention(nn.Module):
    """A module made of attention whose weights can be read and whose steps can be told apart."""

    depth: int
    """Attention layers on top of each other."""

    @abstractmethod
    def weights(self, x: Tensor) -> list[Tensor]:
        """Attention weights of every layer, each (batch, heads, T, T), of x (batch, T, input_size)."""

    @abstractmethod
    def unroll(self, steps: Sequence[Tensor]) -> Tensor:
        """y_T (1, features) from x_1 .. x_T, each (1, input_size), with operations of its own for every step.

        On a whole sequence one operation serves all steps, so its autograd graph joins steps that do not depend on
        each other; here two steps are joined only where one reads the other.
        """


class AttentionLayer(CausalAttention):
    """Embedding, then one self-attention layer."""

    def __init__(self, options: Options, input_size: int, draw: Draw) -> None:
        """Draw all parameters."""
        super().__init__()
        self.depth = 1
        self.embedding = Embedding(input_size, options.hidden, options.positions, draw)
        self.attention = SelfAttention(options.hidden, options.heads, draw)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, T, input_size) -> (batch, T, hidden)."""
        found: Tensor = self.attention(self.embedding(x))[0]
        return found

    def weights(self, x: Tensor) -> list[Tensor]:
        """Attention weights of the one layer."""
        return [self.attention(self.embedding(x))[1]]

    def unroll(self, steps: Sequence[Tensor]) -> Tensor:
        """y_T, step by step."""
        flow = [self.embedding(x, t) for t, x in enumerate(steps)]
        return self.attention.unroll(flow, range(len(flow) - 1, len(flow)))[0]


def build(options: Options, name: str, input_size: int, draw: Draw) -> WholeModule:
    """A layer with fresh weights."""
    module = AttentionLayer(options, input_size, draw)
    return WholeModule(name, module, input_size, weights=module.weights)


FAMILY = Family("attention", Options, build, "one causal self-attention layer, its weights readable")


WIDENING = 4
"""Width of the MLP, in multiples of `hidden`."""


@dataclass(frozen=True)
class TransformerOptions(StackOptions):
    """Options of `transformer`; `layers` counts blocks."""

    heads: int = 4
    positions: Positions = "sinusoidal"

    def __post_init__(self) -> None:
        """Refuse heads that do not divide the width."""
        super().__post_init__()
        require_heads(self.hidden, self.heads)


class Norm(nn.Module):
    """(x - mean) / sqrt(variance + 1e-5) over the features, times a weight, plus a bias, as torch.nn.LayerNorm."""

    def __init__(self, width: int, draw: Draw) -> None:
        """Start from weight one and bias zero."""
        super().__init__()
        self.weight = nn.Parameter(draw.place(torch.ones(width)))
        self.bias = nn.Parameter(draw.place(torch.zeros(width)))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        centred = x - x.mean(-1, keepdim=True)
        variance = centred.square().mean(-1, keepdim=True)
        return centred * (variance + 1e-5).rsqrt() * self.weight + self.bias


class Block(nn.Module):
    """Attention and a GELU network, each reading a normed copy and adding to what it read."""

    def __init__(self, hidden: int, heads: int, draw: Draw) -> None:
        """Draw all parameters."""
        super().__init__()
        self.norm1, self.attention = Norm(hidden, draw), SelfAttention(hidden, heads, draw)
        self.norm2 = Norm(hidden, draw)
        self.linear1 = Projection(hidden, WIDENING * hidden, draw)
        self.linear2 = Projection(WIDENING * hidden, hidden, draw)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (batch, T, H) and attention weights (batch, heads, T, T)."""
        mixed, weights = self.attention(self.norm1(x))
        return self._add(x, mixed), weights

    def unroll(self, steps: Sequence[Tensor], wanted: range) -> list[Tensor]:
        """Outputs at the steps `wanted`, with operations of its own per step."""
        mixed = self.attention.unroll([self.norm1(x) for x in steps], wanted)
        return [self._add(steps[t], part) for t, part in zip(wanted, mixed, strict=True)]

    def _add(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + mixed
        widened: Tensor = self.linear1(self.norm2(x))
        narrowed: Tensor = self.linear2(nn.functional.gelu(widened))
        return x + narrowed


class Transformer(CausalAttention):
    """Embedding, blocks and a final norm."""

    def __init__(self, options: TransformerOptions, input_size: int, draw: Draw) -> None:
        """Draw all parameters, from the input up."""
        super().__init__()
        self.depth = options.layers
        self.embedding = Embedding(input_size, options.hidden, options.positions, draw)
        blocks = [Block(options.hidden, options.heads, draw) for _ in range(options.layers)]
        self.blocks: Sequence[Block] = nn.ModuleList(blocks)  # type: ignore[assignment]
        self.norm = Norm(options.hidden, draw)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, T, input_size) -> (batch, T, hidden)."""
        return self._run(x)[0]

    def weights(self, x: Tensor) -> list[Tensor]:
        """Attention weights of every block."""
        return self._run(x)[1]

    def unroll(self, steps: Sequence[Tensor]) -> Tensor:
        """y_T, step by step; the last block is run for the last step alone."""
        flow, last = [self.embedding(x, t) for t, x in enumerate(steps)], self.depth - 1
        for depth, block in enumerate(self.blocks):
            flow = block.unroll(flow, range(len(flow) - 1 if depth == last else 0, len(flow)))
        found: Tensor = self.norm(flow[-1])
        return found

    def _run(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        flow, found = self.embedding(x), []
        for block in self.blocks:
            flow, weights = block(flow)
            found.append(weights)
        return self.norm(flow), found


def build_transformer(options: TransformerOptions, name: str, input_size: int, draw: Draw) -> WholeModule:
    """A stack of blocks with fresh weights."""
    module = Transformer(options, input_size, draw)
    return WholeModule(name, module, input_size, weights=module.weights)


TRANSFORMER = Family(
    "transformer",
    TransformerOptions,
    build_transformer,
    "causal pre-norm transformer: blocks with residual, norm and MLP",
)

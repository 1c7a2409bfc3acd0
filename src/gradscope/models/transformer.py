"""Causal pre-norm transformer (Xiong et al. 2020): z = x + attention(norm(x)), x' = z + MLP(norm(z)), a final norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradscope.models.attention import (
    CausalAttention,
    Embedding,
    Positions,
    Projection,
    SelfAttention,
    require_heads,
)
from gradscope.models.direct import Direct
from gradscope.models.family import Family, StackOptions
from gradscope.models.initialize import Draw

WIDENING = 4
"""Width of the MLP, in multiples of `hidden`."""


@dataclass(frozen=True)
class Options(StackOptions):
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

    def __init__(self, options: Options, input_size: int, draw: Draw) -> None:
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


def build(options: Options, name: str, input_size: int, draw: Draw) -> Direct:
    """A stack of blocks with fresh weights."""
    module = Transformer(options, input_size, draw)
    return Direct(name, module, input_size, weights=module.weights)


FAMILY = Family("transformer", Options, build, "causal pre-norm transformer: blocks with residual, norm and MLP")

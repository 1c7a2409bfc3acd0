"""The families against torch.nn with the same weights: outputs, dL/dW and dL/dx."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from gradscope.models.stack import Recurrent
from gradscope.models.whole_module import WholeModule
from gradscope.numerics.adjoint import backpropagate
from gradscope.numerics.influence import direct_gradient
from gradscope.selftest.case import Case, Measurement, compared, largest
from gradscope.selftest.cell_cases import family, noise, stacked

HIDDEN, HEADS, STEPS, BATCH = 4, 2, 7, 2
LIMIT = 1e-12


def difference(found: Tensor, wanted: Tensor) -> float:
    """||found - wanted|| / ||wanted||."""
    return float(((found - wanted).norm() / wanted.norm()).detach())


def ln_difference(log10: Tensor, wanted: Tensor) -> float:
    """Largest difference between norms given as log10 and those of `wanted` over its last dimension, in ln."""
    return float((log10 - wanted.norm(dim=-1).log10()).abs().max()) * math.log(10)


def gradients(
    run: Callable[[Tensor], Tensor], x: Tensor, v: Tensor, weights: Sequence[Tensor]
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Y, dL/dx and dL/dW of L = <v, y> by torch.autograd."""
    leaf = x.clone().requires_grad_()
    with torch.enable_grad():
        y = run(leaf)
        found = torch.autograd.grad((y * v).sum(), [leaf, *weights])
    return y.detach(), found[0], list(found[1:])


def recurrent(name: str, kind: type[nn.RNN | nn.GRU | nn.LSTM]) -> Measurement:
    """Two layers: y, every dL/dW by autograd through the cells, and by BPTT the norms of dL/dW and every dL/dx_t."""
    model = stacked(name, HIDDEN)
    twin = kind(model.input_size, HIDDEN, 2, batch_first=True, dtype=torch.float64)
    names = [(key, index) for index, cell in enumerate(model.cells) for key in cell.parameters]
    theirs = [getattr(twin, f"{key}_l{index}") for key, index in names]
    mine = [model.cells[index].parameters[key] for key, index in names]
    for target, value in zip(theirs, mine, strict=True):
        target.data.copy_(value)
    x, v = noise(BATCH, STEPS, model.input_size), noise(BATCH, STEPS, HIDDEN, seed=2)
    y, of_x, of_w = gradients(lambda x: twin(x)[0], x, v, theirs)
    run = model.run(x)
    swept = backpropagate(run, v)
    _, _, own = gradients(model, x, v, [weight.requires_grad_() for weight in mine])
    total = torch.cat([g.flatten() for g in of_w]).norm().log10()
    found = [
        difference(run.output, y),
        *map(difference, own, of_w),
        abs(float(total) - (swept.weight_gradient or 0.0)) * math.log(10),
        ln_difference(swept.input, of_x.transpose(0, 1)),
    ]
    return compared(largest(found), 0.0, LIMIT, f"torch.nn.{kind.__name__}: y, dL/dW, |dL/dW|, dL/dx")


def lru() -> Measurement:
    """h_t = sum over k of lambda^(t-k) gamma B x_k, summed as it stands in complex numbers."""
    model = stacked("lru", HIDDEN, layers=1)
    p = model.cells[0].parameters
    turn = torch.complex(-p["nu"].exp(), p["theta"].exp())
    b = torch.complex(*p["b"].chunk(2)) * (1 - (2 * turn.real).exp()).sqrt()[:, None]
    c = torch.complex(*p["c"].chunk(2, -1)).conj()

    def summed(x: Tensor) -> Tensor:
        driven = x.to(b.dtype) @ b.T
        age = torch.arange(STEPS)[:, None] - torch.arange(STEPS)
        power = torch.where((age >= 0)[..., None], torch.exp(age.clamp_min(0)[..., None] * turn), 0)
        return (torch.einsum("tkh,bkh->bth", power, driven) @ c.T).real + x @ p["d"].T

    x, v = noise(BATCH, STEPS, model.input_size), noise(BATCH, STEPS, model.output_size, seed=2)
    y, of_x, _ = gradients(summed, x, v, [])
    run = model.run(x)
    found = [difference(run.output, y), ln_difference(backpropagate(run, v).input, of_x.transpose(0, 1))]
    return compared(largest(found), 0.0, LIMIT, "the sum over the past: y, dL/dx")


def direct(model: Recurrent | WholeModule, run: Callable[[Tensor], Tensor], weights: dict[str, Tensor]) -> Measurement:
    """Y, every dL/dW and dL/dx of a model without a state against `run`, whose weights have the model's names."""
    if not isinstance(model, WholeModule):
        raise TypeError(f"{model.name} has a state")
    mine = model.parameters()
    x, v = noise(BATCH, STEPS, model.input_size), noise(BATCH, STEPS, HIDDEN, seed=2)
    y, of_x, of_w = gradients(run, x, v, list(weights.values()))
    found, _, own = gradients(model, x, v, [mine[name] for name in weights])
    errors = [
        difference(found, y),
        *map(difference, own, of_w),
        ln_difference(direct_gradient(model, x, v), of_x),
    ]
    return compared(largest(errors), 0.0, LIMIT, "torch.nn: y, dL/dW, dL/dx")


def future() -> Tensor:
    """What a causal model may not look at, (T, T)."""
    return torch.ones(STEPS, STEPS, dtype=torch.bool).triu(1)


def attention() -> Measurement:
    """torch.nn.Linear, then torch.nn.MultiheadAttention with a causal mask."""
    model = family("attention", hidden=HIDDEN, heads=HEADS, positions="none")
    first = nn.Linear(model.input_size, HIDDEN, dtype=torch.float64)
    second = nn.MultiheadAttention(HIDDEN, HEADS, batch_first=True, dtype=torch.float64)
    theirs = _named(first, "embedding.projection.") | _named(second, "attention.")
    _fill(theirs, model)

    def run(x: Tensor) -> Tensor:
        e = first(x)
        found: Tensor = second(e, e, e, attn_mask=future(), need_weights=False)[0]
        return found

    return direct(model, run, theirs)


def transformer() -> Measurement:
    """torch.nn.Linear, then two torch.nn.TransformerEncoderLayer (norm first) and a norm."""
    model = family("transformer", hidden=HIDDEN, heads=HEADS, layers=2, positions="none")
    first = nn.Linear(model.input_size, HIDDEN, dtype=torch.float64)
    blocks = [
        nn.TransformerEncoderLayer(
            HIDDEN, HEADS, 4 * HIDDEN, 0.0, "gelu", batch_first=True, norm_first=True, dtype=torch.float64
        )
        for _ in range(2)
    ]
    last = nn.LayerNorm(HIDDEN, dtype=torch.float64)
    theirs = _named(first, "embedding.projection.") | _named(last, "norm.")
    for index, block in enumerate(blocks):
        theirs |= {name.replace("self_attn", "attention"): w for name, w in _named(block, f"blocks.{index}.").items()}
    _fill(theirs, model)

    def run(x: Tensor) -> Tensor:
        flow = first(x)
        for block in blocks:
            flow = block(flow, src_mask=future())
        found: Tensor = last(flow)
        return found

    return direct(model, run, theirs)


def _named(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {prefix + name: weight for name, weight in module.named_parameters()}


def _fill(theirs: dict[str, Tensor], model: Recurrent | WholeModule) -> None:
    mine = model.parameters()
    if theirs.keys() != mine.keys():
        raise ValueError(f"weights {sorted(mine)} do not have the names {sorted(theirs)}")
    with torch.no_grad():
        for name, weight in theirs.items():
            # Biases start at zero, where an error in them would not show.
            mine[name].add_(noise(*mine[name].shape, seed=3), alpha=0.1)
            weight.copy_(mine[name])


EQUALITY = (
    Case("rnn equals torch.nn.RNN", partial(recurrent, "rnn", nn.RNN)),
    Case("gru equals torch.nn.GRU", partial(recurrent, "gru", nn.GRU)),
    Case("lstm equals torch.nn.LSTM", partial(recurrent, "lstm", nn.LSTM)),
    Case("lru equals its sum", lru),
    Case("attention equals torch.nn", attention),
    Case("transformer equals torch.nn", transformer),
)

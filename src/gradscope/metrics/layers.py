"""Each layer of a stack by itself: what reaches it, how far back it learns, and its part of the weight gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradscope.chain import ArrayChain
from gradscope.metrics import influence
from gradscope.metrics.collect import Tracks, numbers, over_sequences
from gradscope.metrics.forward_pass import gate_means
from gradscope.metrics.gradients import shares
from gradscope.models import cell
from gradscope.models.cell import ClosedForm, Linearization
from gradscope.models.stack import StackRun
from gradscope.numerics import products
from gradscope.numerics.adjoint import LayerAdjoint
from gradscope.numerics.analysis import Analysis
from gradscope.numerics.influence import by_lag, geometric_mean
from gradscope.records import Layer, Number, Series, Values

AFFORDABLE = 3e8
"""T N^3 of one layer up to which its own Jacobians and products are measured."""
HELD = 2**25
"""Entries of its Jacobians, all sequences together, up to which the same holds."""


def measure(analysis: Analysis) -> tuple[Layer, ...]:
    """One record a layer, bottom first; none for a single layer, which the model's own series describe.

    Steps are those of the layer's input, also where it reads the sequence backwards: its state of step t is the one
    it has after reading x_t, and step 0 is the state it starts from.

    Raises:
        Unavailable: what is analysed is not the user's model, or the loss reads nothing of it.
    """
    layers = analysis.trace.layers
    if len(layers) < 2 or analysis.non_finite is not None:
        return ()
    analysis.require_equal()
    swept = [trace.layer_adjoints(v) for trace, v in zip(analysis.traces, analysis.cotangents, strict=True)]
    anchored = [trace.layer_adjoints(v) for trace, v in zip(analysis.traces, analysis.anchored, strict=True)]
    found = []
    for index, ((name, layer), order) in enumerate(zip(layers, analysis.trace.orders, strict=True)):
        adjoints, alone = [run[index] for run in swept], [run[index] for run in anchored]
        steps = tuple(range(layer.states.shape[0]))
        values = {**_gradients(adjoints), **_jacobians(analysis, layer, order)}
        values |= {key: track.values for key, track in gate_means([(layer, order)]).items()}
        # Lags are those of the sequence: a layer that takes other steps has none.
        far = _reach(analysis, alone) if len(steps) == analysis.length + 1 else {"rate": None, "reach": None}
        summary: dict[str, Number] = {"log10_grad_weight": adjoints[0].weight_gradient, **far}
        found.append(Layer(name, Series(steps, None, values), summary))
    return tuple(found)


def _dense(layer: cell.Layer, begins: int, steps: int) -> Tensor:
    """All Jacobians of a layer from its first full state on, (batch, T - begins, size, size)."""
    if isinstance(layer, ClosedForm):
        return layer.jacobians(slice(begins, steps))
    assert isinstance(layer, Linearization)
    return StackRun((layer,), ("alone",)).dense(0, steps)


def _gradients(adjoints: list[LayerAdjoint]) -> dict[str, Values]:
    tracks: Tracks = {
        "log10_grad_state": over_sequences(torch.cat([a.state.T for a in adjoints])),
        "log10_grad_input": over_sequences(torch.cat([a.input.T for a in adjoints])),
    }
    values = {key: track.values for key, track in tracks.items()}
    weights = [shares(a.weight).T for a in adjoints if a.weight is not None]
    if weights:
        logs = over_sequences(torch.cat(weights))
        linear = torch.pow(10.0, torch.tensor(logs.values, dtype=torch.float64))
        values |= {"weight_share": numbers(linear), "log10_weight_share": logs.values}
    return values


def _reach(analysis: Analysis, adjoints: list[LayerAdjoint]) -> dict[str, Number]:
    """Rate and reach of the influence of the layer's own input on the anchor's output."""
    pairs = zip(adjoints, analysis.newest, strict=True)
    profiles = torch.cat([by_lag(a.input.T, newest, analysis.anchor) for a, newest in pairs]).cpu()
    slopes = influence.slopes(profiles[:, 1 : analysis.needed_lag + 1] * math.log(10))
    far = influence.reach_of(geometric_mean(profiles))
    return {"rate": math.fsum(slopes) / len(slopes) if slopes else None, "reach": far}


def _jacobians(analysis: Analysis, layer: cell.Layer, order: Tensor | None) -> dict[str, Values]:
    """Norms of the layer's own Jacobians and their products, in sequence `item`, where they are affordable."""
    steps, batch, size = layer.states.shape[0] - 1, *layer.states.shape[1:]
    begins: int = getattr(layer, "begins", 0)
    if steps * size**3 > AFFORDABLE or batch * steps * size**2 > HELD:
        return {}
    jacobians = _dense(layer, begins, steps)[analysis.spec.item].double()
    if not bool(jacobians.isfinite().all()):
        return {}
    chain = ArrayChain(jacobians.contiguous())
    norms = products.jacobian_sigma(chain)[:, 0] / math.log(10)
    if order is not None:
        # What was found by turns stands at the steps of the input; turns before the first full state have no Jacobian.
        turns = order[:, analysis.spec.item].tolist()
        by_turn = (*(None,) * begins, *numbers(norms))
        reached = (*(None,) * begins, *numbers(products.sweep_products(chain).log10_norm))
        return {
            "log10_jacobian_norm": tuple(by_turn[turn] for turn in turns),
            "log10_product_norm": (reached[0], *(reached[turn + 1] for turn in turns)),
        }
    absent, after = (None,) * begins, (None,) * (steps + 1)
    if analysis.own_anchor <= begins:
        return {"log10_jacobian_norm": (*absent, *numbers(norms))}
    past = ArrayChain(chain.jacobians[:, : analysis.own_anchor - begins])
    far = (*absent, *numbers(products.sweep_products(past).log10_norm))
    return {"log10_jacobian_norm": (*absent, *numbers(norms)), "log10_product_norm": (*far, *after[len(far) :])}

"""Influence profiles in closed form, and the metrics read off them."""

from __future__ import annotations

import torch

from gradscope.metrics import chain_rule, coverage, directions, gradient_share, rate, reach, temporal_range
from gradscope.models.attention import AttentionLayer, Options
from gradscope.models.direct import Direct
from gradscope.models.initialize import Draw
from gradscope.models.recurrent import Recurrent
from gradscope.numerics.analysis import Analysis, Run
from gradscope.records import RunSpec
from gradscope.selftest.case import Case, Measurement, compared
from gradscope.selftest.models import elman, noise


def analysis(model: Recurrent | Direct, steps: int) -> Analysis:
    """One random sequence, its loss the first output at the last step."""
    run = Run(model, noise(1, steps, model.input_size), lambda y: y[:, -1, 0].sum())
    return Analysis((run,), RunSpec())


def uniform_attention() -> Measurement:
    """With queries and keys of zero, every one of the 10 steps gets weight 1/10 and has that influence."""
    layer = AttentionLayer(Options(hidden=4, heads=2, positions="none"), 4, Draw(0, torch.float64, "cpu"))
    one = torch.eye(4, dtype=torch.float64)
    with torch.no_grad():
        layer.embedding.projection.weight.copy_(one)
        layer.attention.in_proj_weight.copy_(torch.cat([0 * one, 0 * one, one]))
        layer.attention.out_proj.weight.copy_(one)
    looked_at = analysis(Direct("attention", layer, 4, weights=layer.weights), 10)
    found = [*(10**looked_at.profile).tolist(), temporal_range.measure(looked_at), coverage.measure(looked_at)]
    return compared(found, [0.1] * 10 + [4.5, 1.0], 1e-12, "1/T; temporal range (T-1)/2; coverage 1")


def geometric_memory() -> Measurement:
    """h_t = 0.9 h_{t-1} + x_t over 100 steps: I(k) = 0.9^k and everything that is said about it."""
    looked_at = analysis(elman([[0.9, 0.0], [0.0, 0.9]], "linear", torch.eye(2, dtype=torch.float64)), 100)
    found = [
        rate.rate(looked_at),
        rate.gain(looked_at),
        rate.half_life(looked_at),
        reach.measure(looked_at),
        temporal_range.measure(looked_at),
        gradient_share.measure(looked_at),
        directions.measure(looked_at),
        chain_rule.measure(looked_at),
    ]
    # ln 0.9; e^rate; ln 2/|rate|; 0.9^(reach-1) >= 1 %; sum k I/sum I; log10(I(99)/sum I); both directions alike.
    exact = [
        -0.10536051565782630123,
        0.9,
        6.5788134789605837831,
        44,
        8.9973437895585761883,
        -5.529980029884667096,
        2,
        0,
    ]
    return compared(found, exact, 1e-11, "I(k) = 0.9^k, mpmath")


CASES = (
    Case("uniform attention, T=10", uniform_attention),
    Case("linear memory 0.9^k, T=100", geometric_memory),
)

"""All layers of the package torchrecurrent, whose code nobody here wrote."""

from __future__ import annotations

import pytest
import torch
import torchrecurrent
from torch import nn

from gradscope.models.whole_module import WholeModule
from gradscope.numerics.loop_trace import LoopTrace
from gradscope.numerics.pick_trace import choose_module_trace

STEPS, UNITS = 9, 16
TWO_STATES = frozenset(
    [
        "LEM",
        "MCLSTM",
        "MultiplicativeLSTM",
        "NAS",
        "OriginalLSTM",
        "PeepholeLSTM",
        "ResLSTM",
        "SCRN",
        "UnICORNN",
        "WMCLSTM",
        "coRNN",
    ]
)
"""Cells whose step hands on two vectors; a coupled, delayed or previous input apart, all others hand on one."""
LAYERS = sorted(
    name
    for name in dir(torchrecurrent)
    if isinstance(getattr(torchrecurrent, name), type)
    and issubclass(getattr(torchrecurrent, name), nn.Module)
    and not name.endswith(("Cell", "Base"))
)


def size(name: str, layers: int) -> int:
    """Numbers of the textbook state."""
    if name == "TLSTM":
        # A lower layer's h is the upper one's previous input, and only its c goes on otherwise.
        return UNITS if layers == 1 else 3 * UNITS
    return layers * UNITS * (2 if name in TWO_STATES or name == "tauGRU" else 1)


def test_there_are_41_of_them() -> None:
    assert len([name for name in LAYERS if "Base" not in name]) == 41


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("name", [name for name in LAYERS if "Base" not in name])
def test_every_layer(name: str, layers: int, batch_first: bool) -> None:
    torch.manual_seed(1)
    features = UNITS if name == "IntersectionRNN" else 3
    module = getattr(torchrecurrent, name)(features, UNITS, num_layers=layers, batch_first=batch_first)
    model = WholeModule(name, module.double().eval(), features, kind="module", time_first=None)
    x = torch.randn(2, STEPS, features, dtype=torch.float64)
    trace = choose_module_trace(model, x)
    assert isinstance(trace, LoopTrace)
    assert model.time_first is not batch_first
    chain = trace.chain(0)
    # RAN's h is tanh(c) from step 1 on; before it there are two vectors of zeros, more than its state.
    assert (chain.length, chain.size) == (STEPS - (name == "RAN"), size(name, layers))
    check = trace.equality(trace.cotangent(lambda raw: raw[0].square().sum()))
    assert check.passed
    assert max(check.output, check.grad) < 1e-12
    _hold(trace)


def _hold(trace: LoopTrace) -> None:
    """Products against what the graph says of ds_{T-1}/ds_t: a cell whose output is not its state reads s_{T-1} too."""
    one, chain = trace.opening(0), trace.chain(0)
    output = one.recording.outputs[0]
    v = torch.zeros_like(output)
    v.select(one.axis, -1)[:] = torch.linspace(1, 2, output.shape[-1])
    (found,), _ = one.sweeper.sweep({one.graph.value(output): [(v, 0)]}, one.leaf, weights=None, ends=True)
    begins = STEPS - chain.length
    first, last = (torch.cat([m.detach() * 2.0**e for m, e in found.ends[t]]) for t in (begins, STEPS - 1))
    product = torch.eye(chain.size, dtype=torch.float64)
    for t in range(1, chain.length):
        product = chain.jacobian(t) @ product
    held = product.mT @ last
    assert len(first) == chain.size
    assert float((held - first).abs().max()) < 1e-10 * float(first.abs().max())

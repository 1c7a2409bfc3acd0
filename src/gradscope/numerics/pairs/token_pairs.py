"""What one token has to do with another: the whole Jacobian dy_a/dx_b, by layer and by path, and attention weights.

Norms are Frobenius norms, of the full Jacobian and not of its product with some vector, and travel as log10 over any
distance. Nothing here knows whether the model was trained: the caller says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gradscope.errors import UsageError
from gradscope.models.cell import Linearization
from gradscope.models.direct import Direct
from gradscope.models.family import Model
from gradscope.models.lstm import LSTMLinearization
from gradscope.models.recurrent import Recurrent
from gradscope.numerics.pairs.through_module import Measured, through_module
from gradscope.numerics.pairs.tokens import read_pair
from gradscope.numerics.scale import add, log10_hypot, log10_norm, log10_sum, normalise
from gradscope.records import Attention, Pair, Path

TOKENS_SHOWN = 64
"""Steps of an attention map, which has a square of numbers per head."""
MOST_WEIGHTS = 2**18
"""Numbers in all maps of a model together: with many layers and heads fewer steps are kept, ..."""
FEWEST_SHOWN = 16
"""... but not fewer than these."""


def attention_maps(
    model: Direct, x_item: Tensor, tokens: Sequence[str] | None, limit: int = TOKENS_SHOWN
) -> Attention | None:
    """Attention weights over the first `limit` steps of one sequence, (1, T, I) or ids (1, T).

    None where they cannot be read.
    """
    layers = _weights(model, x_item[:, :limit])
    maps = sum(layer.shape[1] for layer in layers)
    if not maps:
        return None
    fits = max(FEWEST_SHOWN, math.isqrt(MOST_WEIGHTS // maps))
    if fits < layers[0].shape[-1]:
        return attention_maps(model, x_item, tokens, fits)
    weights = tuple(tuple(tuple(tuple(row) for row in head) for head in layer[0].double().tolist()) for layer in layers)
    return Attention(None if tokens is None else tuple(tokens[: layers[0].shape[-1]]), weights)


def _weights(model: Direct, x: Tensor) -> list[Tensor]:
    if model.weights is None:
        return []
    try:
        with torch.no_grad():
            return model.weights(x)
    except UsageError:  # a user's module may take sequences of one length only
        return []


def measure_pairs(model: Model, x_item: Tensor, tokens: Sequence[str] | None, pairs: Sequence[str]) -> tuple[Pair, ...]:
    """How much the output at one step depends on the input at another, for every pair `source:target`.

    With D_j = dy_a/dx_j (the top output at the target a, the input at j <= a): share = ||D_b|| / sum_j ||D_j||, and
    the rank of b among the j (all steps, where the model reads the future). The paths are, for a recurrent stack, per
    layer l with output h^l:
    `all`: dh^l_a/dx_b from the token; above the lowest layer also `own input`: dh^l_a/du_b, u being what the layer
    itself reads; and for an LSTM the two parts whose sum that Jacobian (in the lowest layer: `all`) is: `cell`, through
    the cell state alone, x_b -> gates -> c_b -> forget gates -> h_a, and `gates`, the rest. For attention: `all`, and
    the weight of query a on key b per layer and head.

    Args:
        model: the model.
        x_item: one sequence, (1, T, I), or token ids (1, T).
        tokens: a word per step, or None.
        pairs: `source:target`; see `read_pair`.

    Raises:
        UsageError: a pair that cannot be read or looks ahead, or a model without input.
    """
    steps = x_item.shape[1]
    places = [read_pair(word, tokens, steps) for word in pairs]
    if places and x_item.shape[-1] == 0:
        raise UsageError("--pair needs an input at every step, and this model has none; leave --pair out")
    if isinstance(model, Recurrent):
        found = _recurrent(model, x_item, places)
    else:
        found = [through_module(model, x_item, *place) for place in places]
    return tuple(_pair(*place, tokens, *measured) for place, measured in zip(places, found, strict=True))


def _pair(source: int, target: int, tokens: Sequence[str] | None, logs: Tensor, paths: tuple[Path, ...]) -> Pair:
    """Share and rank of step `source` from log10 ||D_j||, j = 1, 2, ..."""
    names = [str(step) if tokens is None else tokens[step - 1] for step in (source, target)]
    own = logs[source - 1]
    share = 10 ** float(own - log10_sum(logs)) if bool((logs > -math.inf).any()) else math.nan
    return Pair(
        source=names[0],
        source_step=source,
        target=names[1],
        target_step=target,
        share=share if math.isfinite(share) else None,
        rank=1 + int((logs > own).sum()),
        of=len(logs),
        paths=paths,
    )


def _recurrent(model: Recurrent, x: Tensor, places: Sequence[tuple[int, int]]) -> list[Measured]:
    if not places:
        return []
    trajectory = model.run(x[:, : max(target for _, target in places)])
    layers = trajectory.layers
    swept: dict[tuple[int, int, int], Tensor] = {}

    def jacobian_norms(first: int, last: int, target: int) -> Tensor:
        key = (first, last, target)
        if key not in swept:
            swept[key] = sweep_output(layers[first : last + 1], target)
        return swept[key]

    found = []
    with torch.no_grad():
        for source, target in places:
            paths = []
            for index, (name, layer) in enumerate(zip(trajectory.names, layers, strict=True)):
                paths.append(Path(name, "all", float(jacobian_norms(0, index, target)[source - 1])))
                if index:
                    paths.append(Path(name, "own input", float(jacobian_norms(index, index, target)[source - 1])))
                if isinstance(layer, LSTMLinearization):
                    cell, gates = lstm_paths(layer, source, target)
                    paths += [Path(name, "cell", cell), Path(name, "gates", gates)]
            found.append((jacobian_norms(0, len(layers) - 1, target), tuple(paths)))
    return found


def sweep_output(layers: Sequence[Linearization], target: int) -> Tensor:
    """log10 ||dy_a/dx_j||_F for j = 1 .. a in one sweep back from step a = `target`.

    Args:
        layers: a stack of layers along one sequence (batch 1); x is the input of the first, y the output of the last.
        target: a, from 1.
    """
    top = layers[-1].outputs
    width = top.shape[-1]
    seed = torch.eye(width, dtype=top.dtype, device=top.device)[:, None]
    adjoints = [top.new_zeros(width, 1, layer.states.shape[-1]) for layer in layers]
    exponents = [torch.zeros(width, 1, dtype=torch.long, device=top.device) for _ in layers]
    zero, found = torch.zeros_like(exponents[0]), []
    for at in range(target - 1, -1, -1):
        # Only the output at the target is read; the layers below hear from those above at every step.
        above: tuple[Tensor, Tensor] | None = (seed, zero) if at == target - 1 else None
        for index in reversed(range(len(layers))):
            layer, own, e, direct = layers[index], adjoints[index], exponents[index], None
            if above is not None:
                seen, direct = layer.pull_output(at, above[0])
                own, e = add(own, e, seen, above[1])
            own, e = normalise(own, e)
            adjoints[index], delta = layer.pull(at, own)
            exponents[index] = e
            given = layer.pull_input(at, delta)
            above = (given, e) if direct is None or above is None else add(given, e, direct, above[1])
        assert above is not None
        found.append(log10_norm(*above)[:, 0])
    return log10_hypot(torch.stack(found[::-1], 1))


def lstm_paths(layer: LSTMLinearization, source: int, target: int) -> tuple[float, float]:
    """log10 norms of the two parts of dh_a/dx_b of one LSTM layer: through the cell state alone, and the rest.

    The cell part is diag(dh_a/dc_a) diag(f_a ... f_{b+1}) dc_b/dx_b with h_{b-1} held fixed. The rest is swept beside
    it and never found by subtraction, so that a small one keeps its digits.
    """
    hidden, at = layer.hidden, target - 1
    whole = torch.eye(hidden, dtype=layer.states.dtype, device=layer.states.device)[:, None]
    before, delta = layer.pull(at, layer.pull_output(at, whole)[0])
    # dh_a reads c_a, the start of the cell path, in the i, f and g parts of delta; the output gate is the other way.
    through_cell, through_gates = delta.clone(), delta.clone()
    through_cell[..., 3 * hidden :] = 0
    through_gates[..., : 3 * hidden] = 0
    cell_e = gates_e = torch.zeros(hidden, 1, dtype=torch.long, device=whole.device)
    cell, gates = _only(before, hidden, True), _only(before, hidden, False)
    arriving = (through_cell, cell_e), (through_gates, gates_e)
    for at in range(target - 2, source - 2, -1):
        cell, cell_e = normalise(cell, cell_e)
        gates, gates_e = normalise(gates, gates_e)
        before, through_cell = layer.pull(at, cell)
        rest, through_gates = layer.pull(at, gates)
        arriving = (through_cell, cell_e), (through_gates, gates_e)
        # What leaves the cell state for h_{t-1} is on the gates' side from there on.
        gates, gates_e = add(rest, gates_e, _only(before, hidden, False), cell_e)
        cell = _only(before, hidden, True)
    norms = [log10_hypot(log10_norm(layer.pull_input(source - 1, delta), e)[:, 0]) for delta, e in arriving]
    return float(norms[0]), float(norms[1])


def _only(adjoint: Tensor, hidden: int, cell: bool) -> Tensor:
    """The c part (or the h part) of an adjoint of (h, c), zero elsewhere."""
    kept = torch.zeros_like(adjoint)
    part = slice(hidden, None) if cell else slice(0, hidden)
    kept[..., part] = adjoint[..., part]
    return kept

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
from gradscope.models.family import Model
from gradscope.models.fused_recurrence import run_opened
from gradscope.models.lstm import LSTMLinearization
from gradscope.models.stack import Recurrent
from gradscope.models.whole_module import WholeModule
from gradscope.numerics.logscale import add, log10_hypot, log10_norm, log10_sum, normalise
from gradscope.numerics.token_names import read_pair
from gradscope.records import Attention, Pair, Path

TOKENS_SHOWN = 64
"""Steps of an attention map, which has a square of numbers per head."""
MOST_WEIGHTS = 2**18
"""Numbers in all maps of a model together: with many layers and heads fewer steps are kept, ..."""
FEWEST_SHOWN = 16
"""... but not fewer than these."""


def attention_maps(
    model: WholeModule, x_item: Tensor, tokens: Sequence[str] | None, limit: int = TOKENS_SHOWN
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


def _weights(model: WholeModule, x: Tensor) -> list[Tensor]:
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


def _recurrent(model: Recurrent, x: Tensor, places: Sequence[tuple[int, int]]) -> list[PairMeasurement]:
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


MOST_OUTPUTS = 512
"""Features of the output that are differentiated one by one; of more, `DIRECTIONS` stand for all."""
DIRECTIONS = 64

PairMeasurement = tuple[Tensor, tuple[Path, ...]]


def through_module(model: WholeModule, x: Tensor, source: int, target: int) -> PairMeasurement:
    """log10 ||D_j||_F, D_j = dy_a/dx_j, j = 1 .. a; of a model that reads the future, j = 1 .. T. And the paths.

    x_j is the embedding of a token where the model takes ids. One backward pass per output feature: batching them
    would multiply the squares that attention keeps. Of n > 512 features a seeded orthonormal U (n, 64) stands for
    all: E ||U^T D||_F^2 = 64/n ||D||_F^2, which leaves the norm uncertain by 9 % where D has rank one, less elsewhere.

    Args:
        model: the model.
        x: one sequence, (1, T, I) or ids (1, T).
        source: b, from 1.
        target: a, from 1.

    Raises:
        UsageError: nothing to differentiate by, or no output of its own at step a.
    """
    seen = run_opened(model, x, search=False)
    given = seen.given
    if given is None:
        raise UsageError("--pair: no embedding of the module reads its token ids; leave it out")
    y = _at_step(model.output(seen.raw, x), target, x.shape[1])
    values, scale = _values(y)
    rows = [_gradient(value, given) for value in values]
    none = torch.full((x.shape[1],), -math.inf, dtype=given.dtype, device=given.device)
    logs = torch.stack([none if row is None else model.laid_out(log10_norm(row))[0] for row in rows])
    last = x.shape[1] if bool((logs[:, target:] > -math.inf).any()) else target
    logs = log10_hypot(logs[:, :last]) + math.log10(scale)
    what = "all" if len(values) == len(y) else f"all, by {len(values)} of {len(y):,} directions"
    return logs, (Path("model", what, float(logs[source - 1])), *_heads(model, x[:, :last], source, target))


def _heads(model: WholeModule, x: Tensor, source: int, target: int) -> list[Path]:
    """The weight of query a on key b, by layer and head."""
    if model.weights is None:
        return []
    with torch.no_grad():
        layers = model.weights(x)
    return [
        Path(f"l{index}", f"head {head} weight", float(weight.double().log10()))
        for index, weights in enumerate(layers)
        for head, weight in enumerate(weights[0, :, target - 1, source - 1])
    ]


def _at_step(output: Tensor, target: int, steps: int) -> Tensor:
    """Features of the output at a step of the only sequence."""
    if output.ndim == 3 and output.shape[1] == steps:
        return output[0, target - 1]
    if target == steps:
        return output[0].flatten()
    raise UsageError(f"--pair: the module has one output for {steps} steps; let step {steps} be the target")


def _values(y: Tensor) -> tuple[Tensor, float]:
    """What is differentiated in the place of y (n), and by what its norm is to be multiplied."""
    if len(y) <= MOST_OUTPUTS:
        return y, 1.0
    drawn = torch.randn(len(y), DIRECTIONS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.enable_grad():
        return y @ torch.linalg.qr(drawn)[0].to(y), math.sqrt(len(y) / DIRECTIONS)


def _gradient(value: Tensor, leaf: Tensor) -> Tensor | None:
    """The gradient of `value`; None when nothing joins the two."""
    if not value.requires_grad:
        return None
    found: Tensor | None = torch.autograd.grad(value, leaf, retain_graph=True, allow_unused=True)[0]
    return found

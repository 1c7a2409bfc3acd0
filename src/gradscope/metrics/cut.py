"""A cut gradient: exactly zero although the numbers depend on each other, of one state on another or on the input."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from gradscope.chain import ArrayChain
from gradscope.metrics.unheard import agree, nudge_of
from gradscope.models.capture.given import Embeddings, Tokens
from gradscope.models.direct import Direct
from gradscope.models.recurrent import Recurrent
from gradscope.numerics.analysis import Analysis


def measure(analysis: Analysis) -> int | None:
    """The newest such step up to the anchor: what comes after it is on nobody's way."""
    analysis.require_full()
    return max((step for step in analysis.trace.cut_steps(analysis.spec.item) if step <= analysis.anchor), default=None)


def made_anew(analysis: Analysis) -> tuple[int, ...] | None:
    """Steps up to the anchor that take nothing over from the state before; None where operations do not tell."""
    found = _anew(analysis)
    return None if found is None else tuple(step for step in found if step <= analysis.anchor)


def zeroed(analysis: Analysis) -> tuple[int, ...] | None:
    """Those of them at which the state before is multiplied by exactly zero."""
    found = _anew(analysis) or {}
    return tuple(step for step, masked in found.items() if masked and step <= analysis.anchor) or None


def _anew(analysis: Analysis) -> Mapping[int, bool] | None:
    analysis.require_full()
    return analysis.trace.anew_steps(analysis.spec.item)


def of_input(analysis: Analysis) -> int | None:
    """The newest step up to which no input receives a gradient, though the output at the anchor follows them.

    It is moved alike by a small nudge up and one down. What is not read at all, or by units that are dead, moves
    nothing; what is merely asked whether it is there (padding, a threshold) makes the output jump, both times alike.
    None where newer inputs receive none either: then the input is unheard as a whole.
    """
    run = analysis.runs[0]
    if isinstance(run.model, ArrayChain) or not run.x.shape[-1]:
        return None
    analysis.require_finite()
    heard = (analysis.influence > -math.inf).any(0).nonzero().flatten().tolist()
    lags, anchor = analysis.influence.shape[1], analysis.anchor
    if not heard or heard[-1] == lags - 1:
        return None
    unheard = anchor - heard[-1] - 1
    read = (analysis.influence[: len(run.x)] > -math.inf).any(1).to(run.x.device)
    with torch.no_grad():
        low, before, high = (_moved(run.model, run.x, unheard, sign, anchor) for sign in (-1, 0, 1))
    if before.ndim and len(before) == len(read):
        # What becomes of sequences that the loss does not read is no gradient that is missing.
        low, before, high = (one[read] for one in (low, before, high))
    noise = 8 * torch.finfo(before.dtype).eps * float(before.abs().max())
    return unheard if agree(high - before, before - low, noise) else None


def _moved(model: Recurrent | Direct, x: Tensor, steps: int, sign: int, anchor: int) -> Tensor:
    """The output with the first steps of its input nudged, or of what its embeddings make of ids, as far as finite."""
    taken = None if isinstance(model, Recurrent) or x.is_floating_point() else model.laid_out(x)
    if isinstance(model, Recurrent) or taken is None:
        moved = x.clone()
        older = moved[:, :steps]
        # Zeros may be what is taken for padding; where there is nothing else, they are all there is to move.
        older += sign * nudge_of(x, older.shape) * ((older != 0) | ~(older != 0).any())
        output = model(moved)
    else:
        tokens = Tokens(model.module, taken, model.tables)
        weight = next(p for p in model.module.parameters() if p.is_floating_point())
        width = max((known.stop for known in model.tables.values()), default=0)
        leaf = weight.new_zeros(*x.shape, width)
        leaf[:, :steps] = sign * nudge_of(weight.detach(), leaf[:, :steps].shape)
        tokens.leaf = model.laid_out(leaf).contiguous()
        output = model.output(model.run(tokens.taken, Embeddings(tokens)), x)
    if output.ndim == 3 and output.shape[1] >= anchor:
        # Earlier outputs hear of their own inputs, whatever becomes of the one that the anchor is about.
        output = output[:, anchor - 1]
    return output.nan_to_num(0, 0, 0)

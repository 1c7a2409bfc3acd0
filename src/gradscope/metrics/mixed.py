"""Do sequences of a batch influence each other?"""

from __future__ import annotations

import torch
from torch import Tensor

from gradscope.models.capture.gradients import gradients
from gradscope.models.capture.watch import see
from gradscope.models.custom import CustomCell
from gradscope.models.direct import Direct
from gradscope.models.recurrent import Recurrent
from gradscope.numerics.analysis import Analysis, Unavailable
from gradscope.numerics.traces.module import ModuleTrace

NOISE = 1e3
"""Times the rounding of the type that a gradient from another sequence must be above, relative to its own."""


def measure(analysis: Analysis) -> tuple[int, int] | None:
    """(source, target), from 1: the output of sequence `target` depends on the input of sequence `source`.

    None where none does; families and chains of Jacobians keep their sequences apart by the way they are made. A cell
    of the user's is asked at its middle step.

    Raises:
        Unavailable: a module with a single sequence, or with outputs that have no sequences.
    """
    model, x = analysis.model, analysis.runs[0].x
    if isinstance(model, Recurrent) and isinstance(model.cells[0], CustomCell):
        return _in_step(model.cells[0], analysis)
    if not isinstance(model, Direct) or model.kind != "module":
        return None
    if len(x) < 2:
        raise Unavailable("there is a single sequence")
    analysis.require_finite()
    seen = see(model, x, search=False)
    output = model.output(seen.raw, x)
    if seen.given is None or not output.requires_grad or output.shape[:1] != x.shape[:1]:
        raise Unavailable("the first output has no sequences that could be told apart")
    target = len(x) - 1
    drawn = torch.randn(output[target].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    asked = torch.zeros_like(output)
    asked[target] = drawn.to(output)
    (found,) = gradients([output], [seen.given], [asked])
    return None if found is None else _pair(model.laid_out(found), target)


def guessed(analysis: Analysis) -> bool | None:
    """Whether batch and time could be taken for each other and nobody said which is which; None of families."""
    model, trace = analysis.model, analysis.trace
    if not isinstance(model, Direct) or not isinstance(trace, ModuleTrace):
        return None
    return model.guessed or (not model.stated and bool(trace.output_shape and model.ambiguous))


def _in_step(cell: CustomCell, analysis: Analysis) -> tuple[int, int] | None:
    """The same of a single step of a cell, by what its new state does with the old ones."""
    x, target = analysis.runs[0].x, len(analysis.runs[0].x) - 1
    analysis.require_finite()
    if target < 1:
        return None
    (_, layer), *_ = analysis.trace.layers
    middle = (analysis.length - 1) // 2
    s = layer.states[middle].detach().requires_grad_()
    with torch.enable_grad():
        new = cell.step(x[:, middle], s)
        drawn = torch.randn(new[target].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        joined = (new[target] * drawn.to(new)).sum()
        found = torch.autograd.grad(joined, s, allow_unused=True)[0] if joined.requires_grad else None
    return None if found is None else _pair(found, target)


def _pair(gradient: Tensor, target: int) -> tuple[int, int] | None:
    """The sequence that receives most of what it should not."""
    norms = gradient.double().flatten(1).norm(dim=1)
    others = norms.clone()
    others[target] = 0
    floor = NOISE * torch.finfo(gradient.dtype).eps * float(norms.max())
    source = int(others.argmax())
    return (source + 1, target + 1) if float(others[source]) > floor else None

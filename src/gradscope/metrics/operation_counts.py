"""Path length and sequential steps, counted on the autograd graph of an unrolled copy."""

from __future__ import annotations

from gradscope.chain import ArrayChain
from gradscope.numerics.analysis import Analysis
from gradscope.numerics.costs import path_growth
from gradscope.numerics.trace import Unavailable
from gradscope.records import Growth


def growth(analysis: Analysis) -> dict[str, Growth]:
    """Both counts at T and 2T, as `path_length` and `sequential_steps`."""
    if isinstance(analysis.model, ArrayChain):
        raise Unavailable("a file of Jacobians has no operations to count")
    if analysis.counted is None:
        analysis.progress("counting operations", 0, 0)
        analysis.counted = path_growth(analysis.model, analysis.length)
    path, steps = analysis.counted
    return {"path_length": path, "sequential_steps": steps}


def path_length(analysis: Analysis) -> int:
    """Operations on the shortest chain between the first input and the last output."""
    return growth(analysis)["path_length"].count[0]


def sequential_steps(analysis: Analysis) -> int:
    """Operations on the longest chain: what no amount of parallel hardware shortens."""
    return growth(analysis)["sequential_steps"].count[0]

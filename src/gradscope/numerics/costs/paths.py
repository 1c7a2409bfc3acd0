"""How many operations join the first input to the last output, counted on the autograd graph of an unrolled copy.

Path length is the shortest chain (what a gradient has to survive: O(n) for a recurrence, O(1) for attention; the
maximum path length of Vaswani et al. 2017, table 1); sequential steps are the longest (what cannot be done at once).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.graph import Node

from gradscope.models.attention import CausalAttention
from gradscope.models.direct import Direct
from gradscope.models.family import Model
from gradscope.models.recurrent import Recurrent
from gradscope.numerics.analysis import Unavailable
from gradscope.records import Growth

LONGEST_UNROLLED = 1000
"""Steps T up to which a recurrence is unrolled; longer sequences are counted at this length."""
LONGEST_DIRECT = 256
"""The same for one layer of attention, which joins every step with all before it; less, with the square root of their
number, for several, so that the graph does not grow."""


def path_growth(
    model: Model, length: int, *, longest: int = LONGEST_UNROLLED, longest_direct: int = LONGEST_DIRECT
) -> tuple[Growth, Growth]:
    """Path length and sequential steps at T and 2T, one leaf per step, without fused operations.

    Paths run from x_1 (s_0 where there is no input) to y_T; weights are no start of a path. T is `length`, or the
    limit when that is lower; `Growth.length` says which.

    Raises:
        Unavailable: y_T does not depend on x_1, or the model is a module that takes a whole sequence at once, in whose
            graph one operation serves all steps, whether or not they depend on each other.
    """
    if isinstance(model, Direct) and isinstance(model.module, CausalAttention):
        longest = int(longest_direct / model.module.depth**0.5)
    steps = max(1, min(length, longest))
    lengths = (steps, 2 * steps)
    with torch.enable_grad():
        found = [_count(model, steps) for steps in lengths]
    shortest, sequential = (tuple(counts) for counts in zip(*found, strict=True))
    return Growth(lengths, shortest, order(shortest)), Growth(lengths, sequential, order(sequential))


def order(count: tuple[int, ...]) -> str:
    """`O(1)` when a count is the same at T and 2T, `O(n)` when it doubles within 10 %, else `unclear`."""
    first, second = count
    if first == second:
        return "O(1)"
    return "O(n)" if abs(second / first - 2) <= 0.2 else "unclear"


def _count(model: Model, steps: int) -> tuple[int, int]:
    """Shortest and longest path at one length."""
    output, leaves = _unroll(model, steps) if isinstance(model, Recurrent) else _unroll_attention(model, steps)
    paths = None if output.grad_fn is None else _paths(output, leaves)
    if paths is None:
        raise Unavailable("the last output does not depend on the first input")
    return paths


def _unroll(model: Recurrent, steps: int) -> tuple[Tensor, list[list[Tensor]]]:
    """y_T, and the leaves: a list per step."""
    states = model.initial_states(1)
    x = _leaves(states[0], model.input_size, steps)
    if model.input_size:
        return model.unroll(x, states)[-1], [[leaf] for leaf in x]
    states = [state.detach().requires_grad_() for state in states]
    return model.unroll(x, states)[-1], [states]


def _unroll_attention(model: Direct, steps: int) -> tuple[Tensor, list[list[Tensor]]]:
    if not isinstance(model.module, CausalAttention):
        raise Unavailable("the module takes the whole sequence at once, so its operations cannot be told apart by step")
    if not model.input_size:
        raise Unavailable("the model has no input")
    x = _leaves(next(model.module.parameters()), model.input_size, steps)
    return model.module.unroll(x), [[leaf] for leaf in x]


def _leaves(like: Tensor, input_size: int, steps: int) -> list[Tensor]:
    blank = torch.zeros(1, input_size, dtype=like.dtype, device=like.device)
    return [blank.clone().requires_grad_() for _ in range(steps)]


def _paths(output: Tensor, leaves: list[list[Tensor]]) -> tuple[int, int] | None:
    """Shortest path from `leaves[0]`, and the longest from any leaf, to `output`; None when there is no such path.

    A node counts as one operation. `output` stays referenced while its graph is walked: nodes are told apart by
    identity, and Python gives the identity of one that nobody holds to the next.
    """
    first, any_leaf = {id(leaf) for leaf in leaves[0]}, {id(leaf) for group in leaves for leaf in group}
    shortest: dict[Node, int] = {}
    longest: dict[Node, int] = {}
    for node in _inputs_first(output):
        variable = getattr(node, "variable", None)
        if id(variable) in any_leaf:
            longest[node] = 0
        if id(variable) in first:
            shortest[node] = 0
        before = [parent for parent, _ in node.next_functions if parent is not None]
        # Weights are in neither table, so nothing is counted that leads to weights alone.
        if reached := [longest[parent] for parent in before if parent in longest]:
            longest[node] = 1 + max(reached)
        if near := [shortest[parent] for parent in before if parent in shortest]:
            shortest[node] = 1 + min(near)
    root = output.grad_fn
    return (shortest[root], longest[root]) if root is not None and root in shortest else None


def _inputs_first(output: Tensor) -> list[Node]:
    """All nodes of the graph of `output`, each after those it reads; a stack of its own, as graphs are deep."""
    assert output.grad_fn is not None
    order_of: list[Node] = []
    seen: set[Node] = {output.grad_fn}
    stack = [(output.grad_fn, iter(output.grad_fn.next_functions))]
    while stack:
        node, rest = stack[-1]
        for parent, _ in rest:
            if parent is not None and parent not in seen:
                seen.add(parent)
                stack.append((parent, iter(parent.next_functions)))
                break
        else:
            order_of.append(node)
            stack.pop()
    return order_of

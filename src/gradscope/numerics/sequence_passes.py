"""The sequences of a batch in a module's computation: each opened by itself, swept together where alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from gradscope.errors import UsageError
from gradscope.forward.autograd_graph import Graph
from gradscope.forward.backward_sweep import Sweeper, Swept
from gradscope.forward.call_sites import answers_of
from gradscope.forward.recorder import Recording, record, stepwise
from gradscope.forward.scaled_pull import Pending, Term, normalised, summed
from gradscope.forward.traced_pass import TracedPass, trace_pass, uncollected
from gradscope.forward.walk import Walk
from gradscope.forward.weight_contributions import axes, hypot, log10_rows, same_graph
from gradscope.models.fused_recurrence import OpenedPass
from gradscope.models.output_shape import reals
from gradscope.models.tolerances import coarsest, nudged, roundings, tolerance
from gradscope.models.whole_module import WholeModule
from gradscope.numerics.adjoint import Scaled
from gradscope.numerics.logscale import add
from gradscope.numerics.logscale import normalise as normalise_rows
from gradscope.numerics.module_trace import Cotangents
from gradscope.numerics.trace import NotMeasured, Unavailable, attempted
from gradscope.text import safe_text


def row_of(whole: Tensor, shape: Sequence[int], b: int, batch: int) -> Tensor | None:
    """Sequence b of a tensor of the batch, in the shape that it has by itself; None where it has no such part."""
    if batch == 1:
        return whole if whole.shape == torch.Size(shape) else None
    if whole.ndim != len(shape):
        return None
    apart = [axis for axis in range(whole.ndim) if whole.shape[axis] != shape[axis]]
    if len(apart) != 1 or whole.shape[apart[0]] != batch * shape[apart[0]]:
        return None
    width = shape[apart[0]]
    return whole.narrow(apart[0], b * width, width)


def rows_agree(
    whole: Any, own: Any, b: int, batch: int, types: Collection[torch.dtype] = (), leaves: Sequence[Tensor] = ()
) -> bool:
    """Whether a sequence by itself returned what it did among the others, within rounding.

    Args:
        whole: what the module returned for the batch.
        own: what it returned for the sequence alone.
        b: the place of that sequence.
        batch: how many there are.
        types: that took part inside.
        leaves: what `own` was made of; a sum of terms that cancel is rounded as they are, and not as it is.
    """
    pairs = list(zip(reals(whole), reals(own), strict=False))
    if len(reals(whole)) != len(reals(own)) or not pairs:
        return False
    for one, alone in pairs:
        row = row_of(one, alone.shape, b, batch)
        if row is None:
            continue
        a, c = row.detach().double(), alone.detach().double()
        size = float(a.nan_to_num(0, 0, 0).abs().max()) if a.numel() else 0.0
        near = tolerance((alone.dtype, *types)).outputs
        if torch.allclose(a, c, near, near * size, equal_nan=True):
            continue
        if not torch.allclose(a, c, near, near * _terms(alone, leaves), equal_nan=True):
            return False
    return True


def _terms(made: Tensor, leaves: Sequence[Tensor]) -> float:
    """Size of the terms that a tensor is the sum of: sum |d(sum y)/dp p| over all numbers p of the leaves."""
    if not leaves or not made.requires_grad:
        return 0.0
    found = torch.autograd.grad(made.sum(), leaves, retain_graph=True, allow_unused=True)
    terms = [(g * leaf.detach()).abs().sum() for g, leaf in zip(found, leaves, strict=True) if g is not None]
    return float(torch.stack([term.double() for term in terms]).nan_to_num(0, 0, 0).sum()) if terms else 0.0


KEPT_OPERATIONS = 2**21
"""Operations of all sequences together up to which their graphs are kept at once."""


@dataclass(frozen=True, eq=False)
class SequencePass:
    """A pass that some of the sequences go through."""

    graph: Graph
    leaf: int | None
    recording: Recording
    sweeper: Sweeper
    walks: Sequence[Walk]
    rows: tuple[int, ...]
    of: int
    """How many sequences there are in all."""
    answers: Sequence[Any] = ()
    shares: Callable[[], Sequence[float | None]] = tuple
    """As `SequencePasses.shares`, of this pass."""

    def part(self, whole: Tensor, shape: torch.Size) -> Tensor | None:
        """Its part, of this shape, of what holds all sequences; None where that has no row for each."""
        return whole if len(self.rows) == self.of else row_of(whole, shape, self.rows[0], self.of)

    def taken(self, x: Tensor) -> Tensor:
        """Its sequences of x (sequences, T, ...)."""
        return x if len(self.rows) == self.of else x[self.rows[0] : self.rows[0] + 1]

    def cotangent(self, g: Tensor, place: int, shape: torch.Size) -> Tensor | None:
        """Its part of the gradient of output `place`; None where that mixes the sequences."""
        if shape or len(self.rows) == self.of:
            return self.part(g, shape)
        share = None if g.ndim else self.shares()[place]
        return None if share is None else g * share


class SequencePasses:
    """What every sequence of a batch goes through."""

    def __init__(self, model: WholeModule, x: Tensor, first: TracedPass) -> None:
        """Take the model, its input (sequences, T, ...) and its first sequence, opened."""
        self.model, self.x, self.first = model, x, first
        self.count = len(x)
        self._opened: dict[int, TracedPass] = {}

    @cached_property
    def seen(self) -> OpenedPass:
        """What the module returns, as numbers: its graph is kept by sequence pass."""
        return OpenedPass(self.plain(self.x), self.first.recording.given, ())

    def opening(self, b: int) -> TracedPass:
        """One sequence by itself.

        Raises:
            Unavailable: it gives something else by itself than among the others.
        """
        if b not in self._opened:
            self._opened[b] = self._agreeing(b)
        return self._opened[b]

    def differ(self) -> str:
        """Why the sequences cannot be told apart; empty where they can, or where finding out takes too long."""
        if not self.is_short or self._all is not None:
            return ""
        found = [attempted(partial(self.opening, b)) for b in range(self.count)]
        if why := next((one.reason for one in found if isinstance(one, NotMeasured)), ""):
            return why
        mixed = not reals(self.seen.raw)[0].ndim and self.shares[0] is None
        return "the number that it returns is neither the sum nor the mean of what its sequences give" if mixed else ""

    def _agreeing(self, b: int) -> TracedPass:
        one = self.first if b == 0 else self._open(b)
        if one.recording.branched and self.count > 1:
            # Python looked at numbers of all sequences together: each takes the way that they took.
            try:
                one = self._open(b, answers=self._answers)
            except UsageError:
                raise
            except Exception:  # the user's own code may refuse numbers that are not those it made
                one = self._open(b)
        if not self._agrees(self.seen.raw, one, b):
            one = self._open(b, plain=True)
        if self._agrees(self.seen.raw, one, b):
            return one
        if self.model.draws(self.model.laid_out(self.x)):
            raise Unavailable(
                f"{safe_text(self.model.name)} draws random numbers, others for a sequence by itself than among the "
                "others of its batch, so its own recurrence cannot be followed; give one sequence alone"
            )
        raise Unavailable(
            "a sequence gives other outputs by itself than among the others of its batch, so its own recurrence "
            "cannot be followed"
        )

    def _agrees(self, whole: Any, one: TracedPass, b: int) -> bool:
        """Whether a sequence by itself is what it is in `whole`, among the others, as far as rounding has not grown."""
        if rows_agree(whole, one.recording.raw, b, self.count, one.types):
            return True
        few = self.before_chaos
        if few is None:
            return rows_agree(whole, one.recording.raw, b, self.count, one.types, one.graph.leaves)
        return rows_agree(self.plain(few), self.plain(few[b : b + 1]), b, self.count, one.types)

    @cached_property
    def before_chaos(self) -> Tensor | None:
        """The first steps of the input, where a rounding error of the whole grows beyond what counts as one.

        None where none does, or where the module takes no shorter sequences: then nothing else explains a difference.
        """
        kind = coarsest((self.x.dtype, *self.first.types))
        limit = tolerance((kind,)).outputs
        steps, x = self.x.shape[1], self.x[:1]
        while steps > 1 and x.is_floating_point() and self._response(x[:, :steps], kind) * roundings(kind) > limit:
            steps //= 2
        return self.x[:, :steps] if 1 < steps < self.x.shape[1] else None

    def _response(self, x: Tensor, kind: torch.dtype) -> float:
        """How far, beside their size, the outputs move when the input changes by a rounding."""
        try:
            pairs = zip(reals(self.plain(x)), reals(self.plain(nudged(x, kind))), strict=True)
            moves = [float((a - b).abs().max() / a.abs().max().clamp_min(1e-300)) for a, b in pairs if a.numel()]
        except UsageError:
            return math.inf
        return max((move for move in moves if math.isfinite(move)), default=0.0)

    def _open(self, b: int, *, plain: bool = False, answers: Sequence[Any] = ()) -> TracedPass:
        x = self.model.laid_out(self.x[b : b + 1])
        return trace_pass(self.model, x, axis=self.first.axis, look=self.first.look, plain=plain, answers=answers)

    @cached_property
    def shares(self) -> tuple[float | None, ...]:
        """By output: 1 where it is one number, the sum of what the sequences give by themselves; 1 / batch of a mean.

        None of any other.
        """
        few = self.before_chaos
        alone = [
            reals(self.plain(few[b : b + 1]))
            if few is not None
            else reals(self.opening(b).recording.raw if self.is_short else self.plain(self.x[b : b + 1]))
            for b in range(self.count)
        ]
        found: list[float | None] = []
        for place, whole in enumerate(reals(self.seen.raw if few is None else self.plain(few))):
            if whole.ndim or any(one[place].ndim for one in alone):
                found.append(None)
                continue
            values = torch.stack([one[place].detach().double() for one in alone])
            near = tolerance((whole.dtype, *self.first.types)).outputs * float(values.abs().sum())
            told = [n for n in (1.0, 1 / self.count) if abs(float(values.sum()) * n - float(whole)) <= near * n]
            found.append(told[0] if told else None)
        return tuple(found)

    def plain(self, x: Tensor) -> Any:
        """What the module returns for x (sequences, T, ...), without a graph."""
        with torch.no_grad(), stepwise(x):
            return self.model.run(self.model.laid_out(x))

    @cached_property
    def _answers(self) -> list[Any]:
        return answers_of(self.model, self.model.laid_out(self.x))

    def __iter__(self) -> Iterator[SequencePass]:
        """All sequences in one pass, where each goes through the same operations; else, or if long, each by itself."""
        if self._all is not None:
            yield self._all
            return
        for b in range(self.count):
            one = self.opening(b) if self.is_short or b == 0 else self._agreeing(b)
            told = (one.answers, lambda: self.shares)
            yield SequencePass(one.graph, one.leaf, one.recording, one.sweeper, one.walks, (b,), self.count, *told)

    @property
    def is_short(self) -> bool:
        """Whether the graphs of all sequences may be kept at once."""
        return len(self.first.graph) * self.count <= KEPT_OPERATIONS

    @cached_property
    def _all(self) -> SequencePass | None:
        return self._together() if self.is_short else None

    def _together(self) -> SequencePass | None:
        first = self.first
        if self.count == 1:
            return None
        kept = first.recording.kept.keys()
        recording = record(self.model, self.model.laid_out(self.x), plain=first.recording.plain, keep=kept)
        graph = Graph.of(recording.ends)
        graph = graph if len(graph) != len(first.graph) or not first.forwarded else graph.forwarded()
        if not same_graph(first.graph, graph) or not self._agrees(recording.raw, first, 0):
            return None
        graph.products = first.graph.products
        axis = axes(first.graph, graph, self.count)
        if any(
            axis(value) is None
            for walk in first.walks
            if walk.steps
            for state in walk.states[1:]
            for value in state
            if value
        ):
            return None
        leaf = None if recording.given is None else graph.value(recording.given)
        sweeper = Sweeper(graph, first.labels, first.walks, self.count, axis)
        place = None if leaf is None else leaf[0]
        return SequencePass(graph, place, recording, sweeper, first.walks, tuple(range(self.count)), self.count)


@dataclass(frozen=True, eq=False)
class Back:
    """One backward pass of all sequences."""

    swept: tuple[tuple[Swept, ...], ...]
    """By sequence pass and walk."""
    given: Scaled
    """dL/dx, m (T, batch, features)."""
    weights: Pending | None
    """dL/dW of the steps of the first sequence's graph, summed over the sequences."""
    totals: tuple[float, ...] | None
    """log10 ||dL/dW|| of every walk."""


def backward(sequence_passes: SequencePasses, v: Cotangents, *, weights: bool) -> Back:
    """Sweep every pass for the cotangents `v` of the module's outputs.

    Raises:
        Unavailable: the loss reads something that mixes the sequences.
    """
    first, arrived, swept = sequence_passes.first, list[Scaled](), list[tuple[Swept, ...]]()
    sums = Pending(first.graph) if weights else None
    parts = [Pending(first.graph) for _ in first.sweeper.walks] if weights else []
    with uncollected():
        for sequence_pass in sequence_passes:
            own = Pending(sequence_pass.graph) if weights else None
            found, terms = sequence_pass.sweeper.sweep(seeds_of(v, sequence_pass), sequence_pass.leaf, weights=own)
            swept.append(tuple(found))
            arrived.append(_by_step(terms, sequence_pass, first.axis))
            if sums is not None and own is not None:
                _collect(sums, own, sequence_pass.graph)
            for part, one in zip(parts, found, strict=False):
                if one.total is not None:
                    _collect(part, one.total, sequence_pass.graph)
    given = Scaled(torch.cat([one.m for one in arrived], 1), torch.cat([one.e for one in arrived], 1))
    each = tuple(log10_of(part.terms.values()) for part in parts)
    return Back(tuple(swept), given, sums, each if weights else None)


def seeds_of(v: Cotangents, sequence_pass: SequencePass) -> dict[tuple[int, int], list[Term]]:
    """The cotangents of a pass's sequences, by value of its graph."""
    found: dict[tuple[int, int], list[Term]] = {}
    for place, (own, g) in enumerate(zip(sequence_pass.recording.outputs, v, strict=True)):
        value = sequence_pass.graph.value(own)
        if g is None or value is None or not bool((g != 0).any()):
            continue
        row = sequence_pass.cotangent(g, place, own.shape)
        if row is None:
            raise Unavailable(f"the loss reads an output of shape {tuple(g.shape)}, which mixes the sequences")
        found.setdefault(value, []).append(normalised(row.to(own), 0))
    return found


def _by_step(terms: Sequence[Term], sequence_pass: SequencePass, axis: int) -> Scaled:
    """dL/dx of a pass's sequences, m (T, sequences, features), every step of each with its own exponent."""
    given = sequence_pass.recording.given
    assert given is not None
    total = None
    for m, e in terms:
        rows = m.detach().movedim(axis, 0)
        rows = rows.reshape(*rows.shape[:2], -1)
        whole = torch.full(rows.shape[:2], e, dtype=torch.int64, device=m.device)
        own, exponents = normalise_rows(rows, whole)
        total = Scaled(own, exponents) if total is None else Scaled(*add(total.m, total.e, own, exponents))
    if total is None:
        like = torch.zeros_like(given).movedim(axis, 0)
        like = like.reshape(*like.shape[:2], -1)
        return Scaled(like, torch.zeros(like.shape[:2], dtype=torch.int64, device=like.device))
    return total


def _collect(sums: Pending, own: Pending, graph: Graph) -> None:
    """Add one pass's dL/dW to those of the others, by parameter."""
    by_leaf = {id(node.variable): place for place, node in enumerate(sums.graph.nodes) if sums.graph.is_leaf[place]}
    for value, terms in own.terms.items():
        place = by_leaf.get(id(graph.nodes[value[0]].variable))
        if place is not None:
            for m, e in terms:
                sums.add((place, 0), m.detach(), e)


def log10_of(parts: Iterable[Sequence[Term]]) -> float:
    """log10 of the norm of several values side by side, each the sum of its terms; -inf for none."""
    return float(hypot([log10_rows(*summed(terms), None, 1) for terms in parts if terms], 1))

"""A module that is run as it is: attention, or a user's own, with the recurrences that were seen inside."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gradscope.chain import JacobianChain
from gradscope.errors import UsageError
from gradscope.forward.autograd_graph import Graph
from gradscope.models.cell import Layer
from gradscope.models.fused_call import gradients
from gradscope.models.fused_recurrence import OpenedPass, Recurrence, reordered, run_opened
from gradscope.models.output_shape import OutputShape, readings, reals, taken_apart
from gradscope.models.stack import Recurrent
from gradscope.models.whole_module import WholeModule
from gradscope.numerics import first_nonfinite, influence
from gradscope.numerics.adjoint import Adjoint, LayerAdjoint
from gradscope.numerics.chain_rule import autograd_ends, moved_without_gradient
from gradscope.numerics.equality import comparable_weights, layers_against_torch, number, wanted
from gradscope.numerics.first_nonfinite import in_operations, in_submodules, is_harmless
from gradscope.numerics.fused_backward import Flow, feeds, flow_back, last_first
from gradscope.numerics.influence import is_last_step, of_newest
from gradscope.numerics.logscale import log10_norm
from gradscope.numerics.trace import Loss, NotMeasured, Unavailable, attempted
from gradscope.numerics.unfollowed import summed_over, unfollowed, unseen, with_joint_state
from gradscope.records import EqualityCheck, ModelKind, NonFinite
from gradscope.registry import unknown

Cotangents = tuple[Tensor | None, ...]
"""dL/d(every tensor that the module returned), None where the loss does not read it."""


class ModuleTrace:
    """Autograd between the recurrences, log-scaled sweeps inside them."""

    carried: int | None = None
    of_state = False

    def __init__(self, model: WholeModule, x: Tensor, *, why: str = "") -> None:
        """Remember the model, x (batch, T, features) or token ids (batch, T), and why no recurrence is followed."""
        self.model, self.x = model, x
        self.sequences, self.length = x.shape[:2]
        self.why = why
        """Why nothing was found in its computation, where that is known."""
        self.stack: ModuleTrace | None = None
        """All its recurrences as one state, along its computation, where they are one."""
        self.apart = ""
        """Why several recurrences are not one state, where that is known."""
        self._flows: list[tuple[Cotangents, Flow]] = []
        self._ends: list[tuple[Cotangents, Tensor | None]] = []

    @cached_property
    def _seen(self) -> tuple[OpenedPass, list[int], str]:
        """The forward pass, its recurrences in the order of a backward pass, and why they could not be followed."""
        seen = run_opened(self.model, self.x)
        why = unfollowed(seen, self.model.name)
        order = None if why else last_first(feeds(seen))
        if not why and order is None:
            why = "what a recurrence returns comes back to it as input, so its own Jacobians are not the whole"
        if why or order is None:
            return run_opened(self.model, self.x, search=False), [], why
        return seen, order, ""

    @property
    def seen(self) -> OpenedPass:
        """The forward pass, opened at the recurrences that could be followed."""
        return self._seen[0]

    @property
    def types(self) -> frozenset[torch.dtype]:
        """Number types that took part in the pass, the recurrences' own included."""
        seen = self._seen[0]
        within = [tensor for one in seen.recurrences for tensor in (one.x, *one.start, *one.leaves)]
        return Graph.of([*reals(seen.raw), *within]).types | {tensor.dtype for tensor in within}

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is to be known of how the module was taken, a sentence each."""
        if self.model.guessed:
            return ("its axes are ambiguous: taken as time first; --layout time-first or batch-first says which",)
        turned = ("it takes time first; turned",) if self.model.turned else ()
        if (shape := self.output_shape) and self.model.ambiguous:
            taken = "an answer at every step" if shape.has_steps else "one answer for a whole sequence"
            return (
                *turned,
                f"the axes of its output {shape.own} are ambiguous: taken as {taken}; it runs with no other length",
            )
        return turned

    def read_by(self, v: Cotangents) -> tuple[str, ...]:
        """What is to be known of what the loss reads: a sum over steps, a reverse half that has seen one input."""
        anchors = self.anchors(v, 1) if self._by_step(v) is None else ()
        alone = self.alone(v, anchors[0]) if anchors else None
        read = [] if alone is None else [(len(self.steps_read(alone)), self.length)]
        if alone is not None:
            shorter = [one for one in self.seen.recurrences if one.lengths is None and len(one.x) < self.length]
            read += [(len(self._own_steps_read(one, alone)), len(one.x)) for one in shorter]
        found = [summed_over(count, steps) for count, steps in read if 2 * count > steps > 2][:1]
        for one in self._seen[0].recurrences:
            if one.one_way or one.output is None or one.lengths is not None:
                continue
            pairs = [(y, g) for y, g in zip(reals(self.seen.raw), v, strict=True) if g is not None and y.requires_grad]
            if not pairs:
                continue
            pulled = gradients([y for y, _ in pairs], one.leaves, [g for _, g in pairs])
            known = {id(leaf): g for leaf, g in zip(one.leaves, pulled, strict=True) if g is not None}
            output, _ = one.spread(known)
            if output is None:
                continue
            half = output[..., output.shape[-1] // 2 :].flatten(1).abs().sum(1)
            if bool(half[-1] > 0) and not bool((half[:-1] > 0).any()):
                found.append(
                    f"the loss reads the last output of {one.name}, whose reverse half has seen the last input alone"
                )
        return tuple(found)

    def steps_read(self, v: Cotangents) -> frozenset[int]:
        """Steps whose states the loss reads by no later state: all of them where it is a sum over steps."""
        found = [self._own_steps_read(one, v) for one in self.seen.recurrences if len(one.x) == self.length]
        return frozenset().union(*found)

    def _own_steps_read(self, one: Recurrence, v: Cotangents) -> frozenset[int]:
        """The same of one recurrence, in steps of its own; none where it reads the future."""
        pairs = [(y, g) for y, g in zip(reals(self.seen.raw), v, strict=True) if g is not None and y.requires_grad]
        if not pairs or not one.one_way:
            return frozenset()
        pulled = gradients([y for y, _ in pairs], one.leaves, [g for _, g in pairs])
        output, ends = one.spread({id(at): g for at, g in zip(one.leaves, pulled, strict=True) if g is not None})
        parts = [part for part in (output, *ends) if part is not None]
        return frozenset(int(t) + 1 for part in parts for t in (part != 0).flatten(1).any(1).nonzero())

    @property
    def begins(self) -> int:
        """The first step that has a full state."""
        return 0 if self.stack is None else self.stack.begins

    @property
    def followed(self) -> bool:
        """Whether there are recurrences and nothing stands in the way of following them."""
        seen, _, why = self._seen
        return bool(seen.recurrences) and not why

    @cached_property
    def joint(self) -> Recurrence:
        """The recurrence whose state is the model's.

        Raises:
            Unavailable: there is none, or more than one, or it has no joint causal state.
        """
        found, why = self.seen.recurrences, self.why or self._seen[2]
        if why:
            raise Unavailable(why)
        if not found:
            if self.model.closed:
                raise Unavailable(self.model.closed)
            if self.model.kind == "module":
                raise Unavailable(unseen(self.model.module, Graph.of(reals(self.seen.raw)).names))
            name = self.model.name.split(":")[0]
            raise Unavailable(f"{name} has no recurrent state: every output reads every input directly")
        if self.model.key is not None:
            names = [one.name for one in found]
            if self.model.key not in names:
                raise UsageError(unknown("recurrence", self.model.key, names) + " (--key)")
            found = tuple(one for one in found if one.name == self.model.key)
        if len(found) != 1:
            held = ", ".join(one.name for one in self.seen.recurrences)
            why = f" without a joint state: {self.apart}" if self.apart else ""
            raise Unavailable(f"the module holds several recurrences ({held}){why}; choose one with --key")
        return with_joint_state(found[0], self.length)

    @property
    def kind(self) -> ModelKind:
        """Recurrent where a recurrence was followed."""
        return "recurrent" if self.seen.recurrences else self.model.kind

    @cached_property
    def size(self) -> int:
        """Numbers in all recurrent states, or in that of the chosen one; features of an output where there are none."""
        found = [one for one in self.seen.recurrences if self.model.key in (None, one.name)]
        widths = [unit.layer.states.shape[-1] for one in found for level in one.levels for unit in level]
        return sum(widths) if widths else int(self.output.shape[-1]) if self.output.ndim else 1

    @property
    def shape(self) -> str:
        """`2x64` for one stack of equal layers, else the widths of all units."""
        widths = [layer.outputs.shape[-1] for _, layer in self.layers]
        if not widths:
            return f"{self.size} wide"
        return f"{len(widths)}x{widths[0]}" if len(set(widths)) == 1 else "+".join(map(str, widths))

    @cached_property
    def layers(self) -> tuple[tuple[str, Layer], ...]:
        """Every unit of every recurrence, by name."""
        several = len(self.seen.recurrences) > 1
        return tuple(
            (f"{one.name}.{unit.name}" if several else unit.name, unit.layer)
            for one in self.seen.recurrences
            for level in one.levels
            for unit in level
        )

    @cached_property
    def orders(self) -> tuple[Tensor | None, ...]:
        """Of every unit."""
        return tuple(unit.order for one in self.seen.recurrences for level in one.levels for unit in level)

    @property
    def output(self) -> Tensor:
        """The first tensor that the module returned, in standard form."""
        return self.model.output(self.seen.raw, self.x).detach()

    @cached_property
    def output_shape(self) -> OutputShape:
        """What the axes of the first tensor are that the module returned."""
        return self.model.shape_of(self.model.first_tensor(self.seen.raw), self.x)

    def non_finite(self, loss: Loss) -> NonFinite | None:
        """The first of weights, input, recurrences and output, where the loss or a gradient is not finite either."""
        bad = self._first_non_finite()
        return None if bad is None or is_harmless(bad, self.model, self.x, loss, self.output) else bad

    def _first_non_finite(self) -> NonFinite | None:
        given = {"input": self.x.transpose(0, 1)}
        if (
            bad := first_nonfinite.in_weights(self.model.parameters()) or first_nonfinite.in_values(given, "input")
        ) is not None:
            return bad
        output = self.output
        if self.output_shape.has_steps:
            last = first_nonfinite.in_values({"output": output.transpose(0, 1)}, "output")
        else:
            whole = first_nonfinite.in_values({"output": output.reshape(1, -1)}, "output")
            last = None if whole is None else replace(whole, step=self.length)
        if last is None and all(bool(layer.states.isfinite().all()) for _, layer in self.layers):
            return None
        if not self.seen.recurrences:
            return in_operations(self.model, self.x) or last
        return in_submodules(self.model, self.x, self.seen.recurrences) or last

    def cotangent(self, loss: Loss) -> Cotangents:
        """dL/d(every tensor that the module returned)."""
        values, rebuilt = taken_apart(self.seen.raw)
        leaves = [v.detach().clone().requires_grad_() if _is_real(v) or _is_complex(v) else v for v in values]
        with torch.enable_grad():
            # Copies, which a loss may write into: torch lets nobody write into a leaf.
            raw = rebuilt([v.clone() if _is_real(v) or _is_complex(v) else v for v in leaves])
            value = loss(raw) if getattr(loss, "reads_raw", True) and self.model.kind == "module" else None
            value = loss(self.model.output(raw, self.x)) if value is None else value
            asked = [leaf for leaf in leaves if _is_real(leaf)]
            empty: tuple[Any, ...] = (None,) * len(asked)
            if not value.requires_grad:
                return empty
            apart = [leaf for leaf in leaves if _is_complex(leaf)]
            found = torch.autograd.grad(value, [*asked, *apart], allow_unused=True)
        if any(g is not None and bool((g != 0).any()) for g in found[len(asked) :]):
            raise UsageError(
                "the loss reads a complex output, whose gradient is not followed; let the module return its real form, "
                "torch.view_as_real(y)"
            )
        return found[: len(asked)]

    def anchors(self, v: Cotangents, count: int) -> tuple[int, ...]:
        """Steps the loss reads; the newest that it hears of, where what it reads has no steps."""
        steps = self._by_step(v)
        if steps is not None:
            return tuple(influence.anchor_steps(steps, count))
        if not any(g is not None and bool((g != 0).any()) for g in v):
            return ()
        ends = self._heard(v)
        return (self.length if ends is None else int(ends.max()),)

    def newest(self, v: Cotangents) -> Tensor | None:
        """The newest step that the loss hears of by sequence, where it differs: those of a padded batch end apart."""
        if (steps := self._by_step(v)) is not None:
            return influence.own_ends(steps)
        ends = self._heard(v)
        return None if ends is None or bool((ends == ends[0]).all()) else ends

    def _heard(self, v: Cotangents) -> Tensor | None:
        """The newest step whose state or input the loss hears of, (batch); None where nobody knows."""
        for known, ends in self._ends:
            if known is v:
                return ends
        found = attempted(lambda: self._newest_heard(v))
        self._ends = [*self._ends[-1:], (v, None if isinstance(found, NotMeasured) else found)]
        return self._ends[-1][1]

    def _newest_heard(self, v: Cotangents) -> Tensor | None:
        if not bool((self.output < math.inf).all()):
            return None
        every = self.states_heard(v)
        if not every:
            return None
        # A recurrence that walks fewer steps, x[:, :-1] or a batch that is padded beyond its longest sequence, is told
        # by its input alone: nobody knows which steps of the input its own are.
        heard = self.input_gradient(v) > -math.inf
        for state in every:
            if len(state) == self.length + 1:
                heard = heard | (state[1:] > -math.inf).T
        ends = (heard * torch.arange(1, self.length + 1, device=heard.device)).amax(1)
        # A sequence of which nothing is heard at all ends where the others do.
        return torch.where(ends > 0, ends, ends.max()) if bool((ends > 0).any()) else None

    def states_heard(self, v: Cotangents) -> tuple[Tensor, ...]:
        """log10 ||dL/ds_t|| of every recurrence along the sequence, (T + 1, batch); none where one reads the future."""
        if not all(one.one_way for one in self.seen.recurrences):
            return ()
        return tuple(layer.state for layers in self.flow(v).layers for layer in layers)

    def alone(self, v: Cotangents, step: int) -> Cotangents:
        """The cotangent of one step, or of an earlier one where a sequence ends before it.

        Of other outputs than one answer for a sequence, that of those which hear of the newest input.
        """
        steps, shapes = self._by_step(v), self._read_by_step(v)
        if steps is None or shapes is None:
            one_answer = self._is_one_answer(v)
            ends = None if one_answer and self.output_shape.standard[-1] % self.length else self._heard(v)
            found = NotMeasured("") if ends is None else attempted(lambda: of_newest(self.model, self.x, v, ends))
            if isinstance(found, NotMeasured) or (one_answer and not is_last_step(found[0], v[0], self.length)):
                return v
            return found
        kept = influence.only_step(steps, step)
        if kept is steps:
            return v
        parts = iter(kept.split([shape.standard[-1] for shape in shapes.values()], -1))
        own = {place: shape.as_returned(next(parts)) for place, shape in shapes.items()}
        return tuple(own[place].to(g) if g is not None and place in own else None for place, g in enumerate(v))

    def _is_one_answer(self, v: Cotangents) -> bool:
        """Whether the loss reads the first tensor alone, which has one answer, (features), for a whole sequence."""
        alone = all(g is None or not bool((g != 0).any()) for g in v[1:])
        return alone and self.output_shape.has_sequences and len(self.output_shape.standard) == 2

    def of_first(self, v: Tensor) -> Cotangents:
        """The cotangent of the first tensor returned alone, from its standard form.

        Raises:
            Unavailable: it has another form, as in a packed sequence.
        """
        first, *others = reals(self.seen.raw)
        if tuple(first.shape) != self.output_shape.own or tuple(v.shape) != self.output_shape.standard:
            raise Unavailable("the output has no steps")
        return (self.output_shape.as_returned(v), *[None] * len(others))

    def _by_step(self, v: Cotangents) -> Tensor | None:
        """(batch, T, features of all that is read) of a loss that reads outputs step by step; None for any other."""
        shapes = self._read_by_step(v)
        if not shapes:
            return None
        parts = [shape.standardised(g) for place, shape in shapes.items() if (g := v[place]) is not None]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def _read_by_step(self, v: Cotangents) -> dict[int, OutputShape] | None:
        """The shapes of the tensors that the loss reads, by their place; None where one of them has no steps."""
        read = [place for place, g in enumerate(v) if g is not None and bool((g != 0).any())]
        shapes = {place: self._shape_at(place) for place in (read or [0])[: len(v)]}
        known = {place: shape for place, shape in shapes.items() if shape is not None and v[place] is not None}
        return known if len(known) == len(shapes) else None

    def _shape_at(self, place: int) -> OutputShape | None:
        """The shape of a tensor that was returned, where it has steps of the input beyond doubt."""
        own = tuple(reals(self.seen.raw)[place].shape)
        if place == 0:
            shape = self.output_shape
            return shape if shape.has_steps and own == shape.own else None
        possible = readings(own, *self.x.shape[:2], time_first=bool(self.model.time_first))
        timed = [roles for roles in possible if roles[1] is not None] if len(own) > 2 else []
        return OutputShape.of(own, self.length, timed[0]) if len(timed) == 1 else None

    def flow(self, v: Cotangents) -> Flow:
        """The backward pass; asked again for the same cotangents, the same one."""
        for known, flow in self._flows:
            if known is v:
                return flow
        seen, order, _ = self._seen
        if seen.given is None:
            raise Unavailable("no embedding of the module reads its token ids: there is no input to differentiate by")
        pairs = [(y, g) for y, g in zip(reals(seen.raw), v, strict=True) if g is not None]
        found = flow_back(seen, order, [y for y, _ in pairs], [g for _, g in pairs])
        self._flows = [*self._flows[-1:], (v, found)]
        return found

    def adjoint(self, v: Cotangents, *, totals: bool = True) -> Adjoint:
        """The backward pass through the joint recurrence."""
        if self.stack is not None:
            return self.stack.adjoint(v)
        place = self.seen.recurrences.index(self.joint)
        flow = self.flow(v)
        return Adjoint(flow.layers[place], flow.below[place])

    def layer_adjoints(self, v: Cotangents) -> tuple[LayerAdjoint, ...]:
        """What every unit receives, by steps of its input."""
        found = [layer for layers in self.flow(v).layers for layer in layers]
        return tuple(_by_input(layer, order) for layer, order in zip(found, self.orders, strict=True))

    def input_gradient(self, v: Cotangents) -> Tensor:
        """log10 ||dL/dx_t||, (batch, T); with respect to the embeddings of tokens."""
        given = self.flow(v).given
        return self.model.laid_out(log10_norm(given.m, given.e))

    def profile(self, v: Cotangents, step: int) -> Tensor:
        """log10 I(k)."""
        logs = influence.by_lag(self.input_gradient(v), self.newest(v), step)
        carried = next((g.dtype for g in v if g is not None), self.output.dtype)
        return influence.overflow_kept(logs, carried)

    def equality(self, v: Cotangents) -> EqualityCheck | None:
        """Against the module itself, its graph whole; None where no recurrence was followed."""
        seen = self.seen
        if not seen.recurrences:
            return None
        flow = self.flow(v)
        weights = comparable_weights(seen)
        asked_for = [p for parameters in weights.values() for p in parameters]
        with wanted(asked_for):
            whole = run_opened(self.model, self.x, search=False)
            pairs = [(y, g) for y, g in zip(reals(whole.raw), v, strict=True) if g is not None and y.requires_grad]
            assert whole.given is not None
            ys, gs = [y for y, _ in pairs], [g for _, g in pairs]
            found = iter(gradients(ys, (whole.given, *asked_for), gs) if pairs else [None] * (1 + len(asked_for)))
        own = next(found)
        own = torch.zeros_like(whole.given) if own is None else own
        by_module = {
            module: [g for _ in parameters if (g := next(found)) is not None] for module, parameters in weights.items()
        }
        name = type(self.model.module).__name__
        return layers_against_torch(
            seen.recurrences, flow.layers, number(flow.given), (own, by_module), name, self.types
        )

    def recurrence(self, item: int) -> tuple[Recurrent, Tensor]:
        """The joint recurrence by itself, from the state it was given."""
        return self.joint.of_item(item)

    def ends(self, item: int) -> tuple[Tensor, Tensor, int]:
        """dL/ds_0 and dL/ds_T through the unrolled recurrence."""
        if self.stack is not None:
            return self.stack.ends(item)
        return (*autograd_ends(*self.recurrence(item)), self.length)

    def cut_steps(self, item: int) -> tuple[int, ...]:
        """Steps at which the recurrence was given a state without gradient, or moves without one."""
        if self.stack is not None:
            return self.stack.cut_steps(item)
        return moved_without_gradient(*self.recurrence(item))

    def anew_steps(self, item: int) -> dict[int, bool]:
        """Steps that take nothing over from the old state; none where layers of torch.nn hand it on."""
        return {} if self.stack is None else self.stack.anew_steps(item)

    def chain(self, item: int) -> JacobianChain:
        """Its trajectory in one sequence."""
        if self.stack is not None:
            return self.stack.chain(item)
        model, x = self.recurrence(item)
        return model.run(x)


def _by_input(found: LayerAdjoint, order: Tensor | None) -> LayerAdjoint:
    """Steps of a unit that reads backwards in the order of its input."""
    if order is None:
        return found
    state, joint = (torch.cat([part[:1], reordered(part[1:], order)]) for part in (found.state, found.joint))
    weight = None if found.weight is None else reordered(found.weight, order)
    return replace(found, state=state, joint=joint, input=reordered(found.input, order), weight=weight)


def _is_real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _is_complex(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_complex()

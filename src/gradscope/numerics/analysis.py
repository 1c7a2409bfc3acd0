"""One model under the lens: every piece is computed once, when something asks for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gradscope.chain import ArrayChain, FirstSteps, JacobianChain
from gradscope.models.stack import Recurrent
from gradscope.models.whole_module import WholeModule
from gradscope.numerics import chain_rule, first_nonfinite, influence, lyapunov, products, spectra
from gradscope.numerics.adjoint import Adjoint
from gradscope.numerics.module_trace import ModuleTrace
from gradscope.numerics.own_traces import JacobiansTrace, RecurrentTrace
from gradscope.numerics.parameter_gradients import Gradients, parameter_gradients
from gradscope.numerics.pick_trace import choose_module_trace, look_ahead
from gradscope.numerics.products import DENSE_NUMBERS, FULL_WORK, LEADING, step_pairs, too_much
from gradscope.numerics.spectra import Leading, leading_spectra
from gradscope.numerics.trace import Cotangent, Loss, NotMeasured, Trace, Unavailable, Value, attempted
from gradscope.profile import Profile
from gradscope.records import EqualityCheck, Growth, ModelKind, NonFinite, RunSpec

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Run:
    """A model with one batch of sequences and a loss, for one seed."""

    model: Recurrent | WholeModule | ArrayChain
    x: Tensor
    loss: Loss
    seed: int = 0

    def trace(self) -> Trace:
        """The model along its sequences."""
        if isinstance(self.model, ArrayChain):
            return JacobiansTrace(self.model, self.seed)
        if isinstance(self.model, Recurrent):
            return RecurrentTrace(self.model, self.x)
        return choose_module_trace(self.model, self.x)


class Analysis:
    """What is known of one model over all its runs; Jacobians are those of sequence `item` of the first run."""

    def __init__(
        self,
        runs: tuple[Run, ...],
        spec: RunSpec,
        progress: Progress = lambda label, done, total: None,
        *,
        detail: bool = True,
    ):
        """Remember what to analyse; nothing is computed yet.

        Args:
            runs: one for each seed.
            spec: the settings.
            progress: called as progress(label, done, total) during long work.
            detail: whole spectra at lags 1, 2, 5, 10 ... instead of 1, 10, 100 ...
        """
        self.runs, self.spec, self.progress = runs, spec, progress
        self.detail, self.spectral_steps = detail, (1, 2, 5) if detail else (1,)
        self.counted: tuple[Growth, Growth] | None = None
        self.traces = tuple(run.trace() for run in runs)
        self.model, self.trace = runs[0].model, self.traces[0]
        self.length = self.trace.length

    @property
    def needed_lag(self) -> int:
        """K: what the user's task needs, else all that lies before the newest output the loss reads (T - 1 at most)."""
        if self.spec.needs_lag is not None:
            return self.spec.needs_lag
        return max(1, Profile(self.anchor).longest)

    @property
    def anchor(self) -> int:
        """The newest step whose output the loss reads, from which lags count; T where it reads none."""
        anchors = () if isinstance(self._anchors, NotMeasured) else self._anchors
        return anchors[-1] if anchors else self.length

    def require_lag(self) -> None:
        """Stop where no step lies the needed lag before the newest output that the loss reads.

        Raises:
            Unavailable: with both steps.
        """
        if self.needed_lag > Profile(self.anchor).longest:
            newest = f"the newest it reads is that of step {self.anchor}"
            raise Unavailable(f"the loss reads no output that has {self.needed_lag} steps before it: {newest}")

    @cached_property
    def cotangents(self) -> tuple[Cotangent, ...]:
        """The cotangent v = dL/dy of all runs."""
        found = []
        for place, (run, trace) in enumerate(zip(self.runs, self.traces, strict=True)):
            self.progress("forward passes", place, self._counted_runs)
            found.append(trace.cotangent(run.loss))
        return tuple(found)

    @property
    def _counted_runs(self) -> int:
        """How many parts the passes have to tell of: none for a single one."""
        return len(self.runs) if len(self.runs) > 1 else 0

    @cached_property
    def adjoints(self) -> tuple[Adjoint, ...]:
        """Backward passes of the whole loss, one per run.

        Raises:
            Unavailable: the model has no recurrent state.
        """
        self.require_equal()
        return tuple(trace.adjoint(v) for trace, v in self._pairs())

    def _pairs(self) -> list[tuple[Trace, Cotangent]]:
        return list(zip(self.traces, self.cotangents, strict=True))

    @cached_property
    def input_gradient(self) -> Tensor:
        """log10 ||dL/dx_t|| over all sequences and seeds, (sequences, T)."""
        self.require_equal()
        return torch.cat([trace.input_gradient(v) for trace, v in self._pairs()])

    @property
    def anchors(self) -> tuple[int, ...]:
        """The steps whose outputs the influence profile is measured from; () where the loss reads none.

        Raises:
            Unavailable: the model has no outputs to ask.
        """
        return _known(self._anchors)

    @cached_property
    def _anchors(self) -> tuple[int, ...] | NotMeasured:
        return attempted(lambda: self.trace.anchors(self.cotangents[0], self.spec.anchors))

    @cached_property
    def anchored(self) -> tuple[Cotangent, ...]:
        """Cotangents of the anchor alone, one per run.

        Raises:
            Unavailable: the loss reads no output.
        """
        if not self.anchors:
            raise Unavailable("the loss does not depend on any output")
        return tuple(trace.alone(v, self.anchors[-1]) for trace, v in self._pairs())

    @property
    def influence(self) -> Tensor:
        """log10 I(k) of every sequence of every seed, lags 0 .. , (sequences, lags).

        Raises:
            Unavailable: the loss reads no output.
        """
        self.require_equal()
        return self._influence

    @cached_property
    def _influence(self) -> Tensor:
        newest, found = self.anchored, []
        for place, ((trace, v), last) in enumerate(zip(self._pairs(), newest, strict=True)):
            self.progress("backward passes", place, self._counted_runs)
            alone = [*(trace.alone(v, step) for step in self.anchors[:-1]), last]
            profiles = [trace.profile(one, step) for one, step in zip(alone, self.anchors, strict=True)]
            found.append(influence.mean_over_anchors(profiles))
        return torch.cat(found)

    @cached_property
    def profile(self) -> Tensor:
        """log10 I(k): geometric mean over sequences and seeds, lags 0 .. , (lags)."""
        return influence.geometric_mean(self.influence)

    @cached_property
    def by_parameter(self) -> tuple[Gradients, Tensor | None]:
        """dL/dW by name and dL/dx of the first run, see `parameter_gradients`.

        Raises:
            Unavailable: a chain of Jacobians has neither.
        """
        run = self.runs[0]
        if isinstance(run.model, ArrayChain):
            raise Unavailable("a chain of Jacobians has neither input nor parameters")
        return parameter_gradients(run.model, run.x, run.loss)

    @cached_property
    def newest(self) -> tuple[Tensor | None, ...]:
        """The anchor of every sequence of every seed, (batch), where they differ; None where they do not.

        It is 0 for a sequence that the loss does not read.
        """
        return tuple(trace.newest(v) for trace, v in zip(self.traces, self.anchored, strict=True))

    @cached_property
    def own_lags(self) -> Tensor:
        """How many lags from 0 on every sequence of every seed has, (sequences): those of a padded batch differ."""
        found = []
        for rows, ends in zip(self.influence.tensor_split(len(self.runs)), self.newest, strict=True):
            all_of_them = torch.full((len(rows),), rows.shape[1], dtype=torch.long)
            found.append(all_of_them if ends is None else ends.cpu())
        return torch.cat(found)

    @property
    def own_anchor(self) -> int:
        """The anchor of the sequence whose Jacobians are measured."""
        found = attempted(lambda: self.newest[0])
        own = 0 if found is None or isinstance(found, NotMeasured) else int(found[self.spec.item])
        return own or self.anchor

    @property
    def non_finite(self) -> NonFinite | None:
        """Where NaN or Inf is born in the forward pass; None when all is finite, or that is not known."""
        return None if isinstance(self.finiteness, NotMeasured) else self.finiteness

    @cached_property
    def finiteness(self) -> NonFinite | NotMeasured | None:
        """Where NaN or Inf is born in the forward pass; None when all is finite; or why that is not known."""
        return attempted(
            lambda: first_nonfinite.earliest(map(lambda a, b: a.non_finite(b.loss), self.traces, self.runs))
        )

    @cached_property
    def broken_gradient(self) -> NonFinite | None:
        """The newest step at which the gradient is not a number though the forward pass is finite; None for none."""
        found = attempted(lambda: self.influence)
        if isinstance(found, NotMeasured) or not bool(found.isnan().any()):
            return None
        lag = int(found.isnan().any(0).nonzero()[0])
        return NonFinite(Profile(self.anchor).step_of(lag), "", "gradient", "nan")

    @property
    def first_non_finite(self) -> NonFinite | None:
        """What is not finite in the forward pass, else in the gradient."""
        return self.non_finite or self.broken_gradient

    def require_gradient(self) -> None:
        """Stop where the forward pass is not finite, or the gradient is not a number.

        Raises:
            Unavailable: with the step.
        """
        self.require_finite()
        if (bad := self.broken_gradient) is not None:
            raise Unavailable(f"the gradient is not a number from step {bad.step} back", told=True)

    def require_range(self) -> None:
        """Stop where the gradient overflows: sums over lags mean nothing then.

        Raises:
            Unavailable: with lag and step.
        """
        self.require_gradient()
        if bool((over := (self.influence == math.inf).any(0)).any()):
            lag = int(over.nonzero()[0])
            raise Unavailable(f"the gradient overflows at lag {lag} (step {Profile(self.anchor).step_of(lag)})")

    @property
    def equality(self) -> EqualityCheck | None:
        """The first run's chain held against the user's own model; None where there is no other, or nothing to hold."""
        return None if isinstance(self.proof, NotMeasured) else self.proof

    @cached_property
    def proof(self) -> EqualityCheck | NotMeasured | None:
        """The same, or why the two cannot be compared."""
        if self.non_finite is not None:
            return None
        return attempted(lambda: self.trace.equality(self.cotangents[0]))

    @cached_property
    def ahead(self) -> str:
        """How the model reads the future, in words; empty where it does not, or that is not known."""
        found = attempted(lambda: look_ahead(self.trace) if self.non_finite is None else "")
        return "" if isinstance(found, NotMeasured) else found

    @property
    def remarks(self) -> tuple[str, ...]:
        """How a user's module was taken, a sentence each."""
        trace = self.trace
        if not isinstance(trace, ModuleTrace):
            return ()
        parts = (lambda: trace.remarks, lambda: trace.read_by(self.cotangents[0]))
        said = [attempted(part) for part in parts]
        return tuple(sentence for part in said if not isinstance(part, NotMeasured) for sentence in part)

    @cached_property
    def kind(self) -> ModelKind:
        """What the report calls the model."""
        found = attempted(lambda: self.trace.kind)
        return "module" if isinstance(found, NotMeasured) else found

    @cached_property
    def size(self) -> int:
        """Numbers in the recurrent state; of a model without one, in an output; 0 where that is not known."""
        found = attempted(lambda: self.trace.size)
        return 0 if isinstance(found, NotMeasured) else found

    @cached_property
    def shape(self) -> str:
        """Layers and widths in a word."""
        found = attempted(lambda: self.trace.shape)
        return "no fixed state" if isinstance(found, NotMeasured) else found

    def require_equal(self) -> None:
        """Stop when what would be analysed is not the user's model, or nothing but rounding.

        Raises:
            Unavailable: it is not, with the differences, or the two cannot be compared.
        """
        if self.is_rounding:
            raise Unavailable(influence.ROUNDING)
        check = _known(self.proof)
        if check is not None and not check.passed:
            worst = next((error for error in (check.output, check.grad) if math.isnan(error)), None)
            worst = max(check.output, check.grad) if worst is None else worst
            raise Unavailable(f"the chain does not reproduce {check.against}: it is off by {worst:.0e}", told=True)

    @cached_property
    def is_rounding(self) -> bool:
        """Whether the gradient of the first run is what rounding leaves of terms that cancel."""
        asked = lambda: influence.is_rounding(self.trace, self.anchored[0], self.anchor, self._influence)  # noqa: E731
        return attempted(asked) is True

    def require_causal(self) -> None:
        """Stop where lags have no direction.

        Raises:
            Unavailable: outputs depend on inputs after them.
        """
        if self.ahead:
            raise Unavailable(self.ahead)

    def require_finite(self) -> None:
        """Stop when the forward pass is not finite.

        Raises:
            Unavailable: it is not, with the step, or that is not known.
        """
        if (bad := _known(self.finiteness)) is not None:
            reason = f"the forward pass is not finite from step {bad.step} on ({bad.layer}, {bad.where})"
            raise Unavailable(reason, told=True)

    @cached_property
    def chain(self) -> JacobianChain:
        """Jacobians of one sequence in float64, kept whole where they fit.

        Raises:
            Unavailable: no recurrent state, the forward pass is not finite, or what is reported would not be the
                model's: its product does not carry the gradient of the last state to the first.
        """
        self.require_finite()
        self.require_equal()
        chain = self._jacobians
        if self.refused:
            raise Unavailable(self.refused)
        return chain

    def _residual(self) -> float:
        self.require_finite()
        self.require_equal()
        return self.chain_rule_residual

    @cached_property
    def refused(self) -> str:
        """Why the Jacobians that were found are not those of the model; empty where they are, or there are none."""
        residual = attempted(self._residual)
        if isinstance(residual, NotMeasured) or residual <= chain_rule.allowed(self.trace):
            return ""
        return f"their product does not give the gradient of the first state: it is off by {residual:.0e}"

    @cached_property
    def chain_rule_residual(self) -> float:
        """By how much the product of the Jacobians misses the gradient of the first state, relative to it.

        Raises:
            Unavailable: there is nothing to hold against each other, with the reason.
        """
        return chain_rule.residual(self._jacobians, self.trace, self.spec.item)

    @cached_property
    def _jacobians(self) -> JacobianChain:
        """The trace's own chain, as numbers where they fit."""
        chain = self.trace.chain(self.spec.item)
        if chain.length * chain.size**2 > DENSE_NUMBERS:
            return chain
        jacobians = chain.dense(0, chain.length)[0].double().contiguous()
        if not bool(jacobians.isfinite().all()):
            raise Unavailable("a Jacobian is not finite although the states are")
        return ArrayChain(jacobians, begins=chain.begins)

    @cached_property
    def past(self) -> JacobianChain:
        """The Jacobians J_1 .. J_a up to the anchor: what the loss depends on; later ones are on nobody's way.

        Raises:
            Unavailable: the loss reads no step after the first full state.
        """
        chain = self.chain
        count = self.own_anchor - chain.begins
        if count >= chain.length:
            return chain
        if count < 1:
            step = self.own_anchor
            raise Unavailable(f"the loss reads step {step}, and the state is full from step {chain.begins} on")
        if isinstance(chain, ArrayChain):
            return ArrayChain(chain.jacobians[:, :count], begins=chain.begins)
        return FirstSteps(chain, count)

    @property
    def full(self) -> bool:
        """Whether whole spectra are affordable; if not, the leading directions are measured."""
        return isinstance(self.chain, ArrayChain) and self.chain.length * self.chain.size**3 <= FULL_WORK

    def require_full(self) -> None:
        """Stop where only the leading directions are measured.

        Raises:
            Unavailable: with the sizes, and what the whole would take.
        """
        if not self.full:
            raise Unavailable(too_much(self.chain.length, self.chain.size))

    @cached_property
    def jacobian_sigma(self) -> Tensor:
        """Natural logs of the singular values of every J_t, (T, N)."""
        self.require_full()
        return products.jacobian_sigma(self.chain)

    @cached_property
    def products(self) -> products.Products:
        """Largest singular values of P_t = J_a ... J_{t+1} at every lag."""
        self.require_full()
        past = self.past
        lag = min(self.needed_lag, past.length)
        return products.sweep_products(past, lag, lambda done: self.progress("products", done, past.length))

    @cached_property
    def leading(self) -> Leading:
        """Leading singular values at log-spaced lags, where whole spectra cost too much."""
        past = self.past
        lags = sorted({*spectra.log_lags(past.length, self.spectral_steps), min(self.needed_lag, past.length)})
        return leading_spectra(past, lags, LEADING, lambda done, of: self.progress("directions", done, of))

    @cached_property
    def spectra(self) -> tuple[list[int], list[spectra.Spectrum]]:
        """Whole singular spectra of the products that end at the anchor, at log-spaced lags."""
        past = self.past
        lags = spectra.log_lags(past.length, self.spectral_steps)
        return lags, spectra.spectra(past, lags, self.jacobian_sigma[: past.length])

    @cached_property
    def step_pairs(self) -> dict[str, object]:
        """Norms of the Jacobian between every two of some steps: the map of pairs.

        Raises:
            Unavailable: no Jacobians, or whole ones cost too much.
        """
        self.require_full()
        return step_pairs(self.chain)

    @cached_property
    def exponents(self) -> lyapunov.Exponents:
        """Lyapunov exponents of the steps up to the anchor, all or the leading ones."""
        past = self.past
        count = None if self.full else min(LEADING, past.size)
        frame = None if self.full else self.leading.start
        told = lambda done: self.progress("exponents", done, past.length)  # noqa: E731
        return lyapunov.lyapunov(past, count, told, frame=frame, burn_in=self.spec.burn_in)


def _known(found: Value | NotMeasured) -> Value:
    """What was measured.

    Raises:
        Unavailable: nothing was.
    """
    if isinstance(found, NotMeasured):
        raise Unavailable(found.reason, told=found.told)
    return found

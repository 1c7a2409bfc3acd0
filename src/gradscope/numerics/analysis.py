"""One model under the lens: every piece is computed once, when something asks for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gradscope.chain import ArrayChain, JacobianChain
from gradscope.models.direct import Direct
from gradscope.models.recurrent import Recurrent, Trajectory
from gradscope.numerics import exponents, finite, influence, products, spectrum
from gradscope.numerics.adjoint import Adjoint, backpropagate
from gradscope.numerics.leading import Leading, leading_spectra
from gradscope.numerics.scale import log10_sum
from gradscope.records import Growth, NonFinite, RunSpec

FULL_WORK = 4e9
"""T N^3 up to which whole spectra are computed by default; beyond it, the leading `LEADING` directions."""
DENSE_NUMBERS = 2**26
"""Entries of all Jacobians together up to which they are kept at once (512 MiB)."""
LEADING = 16

Loss = Callable[[Tensor], Tensor]
Progress = Callable[[str, int, int], None]


class Unavailable(Exception):  # noqa: N818 - a state of affairs, not a failure
    """A piece that does not exist for this model or run; the message is the reason, in words for the user."""


@dataclass(frozen=True)
class Run:
    """A model with one batch of sequences and a loss, for one seed."""

    model: Recurrent | Direct | ArrayChain
    x: Tensor
    loss: Loss
    seed: int = 0


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
        self.spectral_steps = (1, 2, 5) if detail else (1,)
        self.counted: tuple[Growth, Growth] | None = None
        self.model = runs[0].model
        self.length = self.model.length if isinstance(self.model, ArrayChain) else runs[0].x.shape[1]

    @property
    def recurrent(self) -> bool:
        """Whether the model is a stack of recurrent layers."""
        return isinstance(self.model, Recurrent)

    @property
    def needed_lag(self) -> int:
        """K: what the user's task needs, else all that lies before the newest output the loss reads (T - 1 at most)."""
        if self.spec.needs_lag is not None:
            return self.spec.needs_lag
        newest = self.length if isinstance(self.model, ArrayChain) or not self.anchors else self.anchors[-1]
        return max(1, newest - 1)

    @cached_property
    def trajectories(self) -> tuple[Trajectory, ...]:
        """Forward passes of all runs.

        Raises:
            Unavailable: the model has no recurrent state.
        """
        found = []
        for run in self.runs:
            if not isinstance(run.model, Recurrent):
                raise Unavailable(f"{self._without()} has no recurrent state")
            found.append(run.model.run(run.x))
        return tuple(found)

    def _without(self) -> str:
        return "a file of Jacobians" if isinstance(self.model, ArrayChain) else self.model.name.split(":")[0]

    @cached_property
    def outputs(self) -> tuple[Tensor, ...]:
        """Y of all runs, (batch, T, features)."""
        if self.recurrent:
            return tuple(trajectory.output for trajectory in self.trajectories)
        with torch.no_grad():
            return tuple(run.model(run.x) for run in self.runs if isinstance(run.model, Direct))

    @cached_property
    def cotangents(self) -> tuple[Tensor, ...]:
        """v_t = dL/dy_t of all runs, (batch, T, features)."""
        found = []
        for run, output in zip(self.runs, self.outputs, strict=True):
            leaf = output.detach().requires_grad_()
            with torch.enable_grad():
                loss = run.loss(leaf)
                v = torch.autograd.grad(loss, leaf, allow_unused=True)[0] if loss.requires_grad else None
            found.append(torch.zeros_like(output) if v is None else v)
        return tuple(found)

    @cached_property
    def adjoints(self) -> tuple[Adjoint, ...]:
        """Backward passes of the whole loss, one per run.

        Raises:
            Unavailable: the model has no recurrent state.
        """
        return tuple(backpropagate(t, v) for t, v in zip(self.trajectories, self.cotangents, strict=True))

    @cached_property
    def input_gradient(self) -> Tensor:
        """log10 ||dL/dx_t|| over all sequences and seeds, (sequences, T)."""
        if self.recurrent:
            return torch.cat([adjoint.input.T for adjoint in self.adjoints])
        found = []
        for run, v in zip(self.runs, self.cotangents, strict=True):
            if isinstance(run.model, ArrayChain):
                raise Unavailable("a file of Jacobians has no input")
            found.append(influence.direct_gradient(run.model, run.x, v))
        return torch.cat(found)

    @cached_property
    def anchors(self) -> tuple[int, ...]:
        """The steps whose outputs the influence profile is measured from."""
        return tuple(influence.anchor_steps(self.cotangents[0], self.spec.anchors))

    @cached_property
    def of_state(self) -> bool:
        """Whether influence is measured on the state, for want of an input."""
        return isinstance(self.model, ArrayChain) or self.runs[0].x.shape[-1] == 0

    @cached_property
    def influence(self) -> Tensor:
        """log10 I(k) of every sequence of every seed, lags 0 .. , (sequences, lags).

        Raises:
            Unavailable: the loss reads no output.
        """
        if isinstance(self.model, ArrayChain):
            return self._chain_influence(self.model)
        if not self.anchors:
            raise Unavailable("the loss does not depend on any output")
        return torch.cat([self._run_influence(index) for index in range(len(self.runs))])

    def _run_influence(self, index: int) -> Tensor:
        run, v = self.runs[index], self.cotangents[index]
        if isinstance(run.model, Direct):
            found = [
                influence.direct_gradient(run.model, run.x, influence.only_step(v, step))[:, :step].flip(1)
                for step in self.anchors
            ]
        else:
            found = [
                influence.profile_of(self._anchor_adjoint(index, step), step, self.of_state) for step in self.anchors
            ]
        return influence.mean_over_anchors(found)

    def _anchor_adjoint(self, index: int, step: int) -> Adjoint:
        v = self.cotangents[index]
        alone = influence.only_step(v, step)
        # A loss at one step is its own anchor: the sweep of the whole loss serves twice.
        return self.adjoints[index] if torch.equal(alone, v) else backpropagate(self.trajectories[index], alone)

    def _chain_influence(self, chain: ArrayChain) -> Tensor:
        v = torch.randn(chain.size, dtype=torch.float64, generator=torch.Generator().manual_seed(self.spec.seed))
        return exponents.adjoint_profile(chain, v / v.norm())[:, : chain.length]

    @cached_property
    def profile(self) -> Tensor:
        """log10 I(k): geometric mean over sequences and seeds, lags 0 .. , (lags)."""
        return influence.geometric_mean(self.influence)

    @cached_property
    def mean_input_influence(self) -> Tensor:
        """log10 of the *arithmetic* mean over sequences of every seed, (seeds, lags)."""
        per_seed = self.influence.reshape(len(self.runs), -1, self.influence.shape[1])
        return log10_sum(per_seed, 1) - math.log10(per_seed.shape[1])

    @cached_property
    def non_finite(self) -> NonFinite | None:
        """Where NaN or Inf is born in the forward pass; None when all is finite."""
        if isinstance(self.model, ArrayChain):
            return finite.first_bad({"Jacobian": self.model.jacobians.transpose(0, 1)}, "chain")
        if (bad := finite.in_weights(self.model.parameters())) is not None:
            return bad
        given = finite.earliest(finite.first_bad({"input": run.x.transpose(0, 1)}, "input") for run in self.runs)
        if given is not None:
            return given
        if self.recurrent:
            return finite.in_trajectories(self.trajectories)
        return finite.earliest(finite.first_bad({"output": y.transpose(0, 1)}, "output") for y in self.outputs)

    def require_finite(self) -> None:
        """Stop when the forward pass is not finite.

        Raises:
            Unavailable: it is not, with the step.
        """
        if (bad := self.non_finite) is not None:
            raise Unavailable(f"the forward pass is not finite from step {bad.step} on ({bad.layer}, {bad.where})")

    @cached_property
    def chain(self) -> JacobianChain:
        """Jacobians of one sequence in float64, kept whole where they fit.

        Raises:
            Unavailable: no recurrent state, or the forward pass is not finite.
        """
        if not isinstance(self.model, Recurrent | ArrayChain):
            raise Unavailable(f"{self._without()} has no recurrent state: every output reads every input directly")
        self.require_finite()
        chain = self._whole_chain()
        if chain.length * chain.size**2 > DENSE_NUMBERS:
            return chain
        item = self.spec.item if isinstance(self.model, ArrayChain) else 0
        jacobians = chain.dense(0, chain.length)[item].double().contiguous()
        if not bool(jacobians.isfinite().all()):
            raise Unavailable("a Jacobian is not finite although the states are")
        return ArrayChain(jacobians)

    def _whole_chain(self) -> JacobianChain:
        return self.model if isinstance(self.model, ArrayChain) else self.item_trajectory

    @cached_property
    def item_trajectory(self) -> Trajectory:
        """The first run's forward pass for sequence `item` alone."""
        model, item = self.model, self.spec.item
        if not isinstance(model, Recurrent):
            raise Unavailable(f"{self._without()} has no recurrent state")
        return model.run(self.runs[0].x[item : item + 1])

    @property
    def full(self) -> bool:
        """Whether whole spectra are affordable; if not, the leading directions are measured."""
        return isinstance(self.chain, ArrayChain) and self.chain.length * self.chain.size**3 <= FULL_WORK

    def require_full(self) -> None:
        """Stop where only the leading directions are measured.

        Raises:
            Unavailable: with the sizes.
        """
        if not self.full:
            raise Unavailable(
                f"state {self.chain.size} over {self.length} steps: only the leading {LEADING} directions are measured"
            )

    @cached_property
    def jacobian_sigma(self) -> Tensor:
        """Natural logs of the singular values of every J_t, (T, N)."""
        self.require_full()
        return products.jacobian_sigma(self.chain)

    @cached_property
    def products(self) -> products.Products:
        """Largest singular values of P_t at every lag."""
        self.require_full()
        return products.sweep_products(
            self.chain, self.needed_lag, lambda done: self.progress("products", done, self.length)
        )

    @cached_property
    def leading(self) -> Leading:
        """Leading singular values at log-spaced lags, where whole spectra cost too much."""
        lags = sorted({*spectrum.log_lags(self.length, self.spectral_steps), self.needed_lag})
        return leading_spectra(self.chain, lags, LEADING, lambda done, of: self.progress("directions", done, of))

    @cached_property
    def spectra(self) -> tuple[list[int], list[spectrum.Spectrum]]:
        """Whole singular spectra at log-spaced lags."""
        sigma, lags = self.jacobian_sigma, spectrum.log_lags(self.length, self.spectral_steps)
        return lags, spectrum.spectra(self.chain, lags, sigma)

    @cached_property
    def exponents(self) -> exponents.Exponents:
        """Lyapunov exponents, all or the leading ones."""
        count = None if self.full else min(LEADING, self.chain.size)
        return exponents.lyapunov(self.chain, count, lambda done: self.progress("exponents", done, self.length))

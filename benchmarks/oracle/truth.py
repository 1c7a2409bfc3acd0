"""What a report must say of a module of the grammar, from the definitions, by torch.autograd and numpy alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from benchmarks.oracle.modules import Recipe, Written

# 97.5 % quantiles of Student's t for 1 .. 5 degrees of freedom (standard tables).
T975 = (12.706205, 4.302653, 3.182446, 2.776445, 2.570582)


@dataclass
class Truth:
    """One module on x (batch, T, features) with cotangents v (batch, T, outputs), L = sum_b <v_b, y_b>."""

    module: Written
    x: Tensor
    v: Tensor

    def __post_init__(self) -> None:
        self.recipe: Recipe = self.module.recipe
        self.length, self.anchor = self.x.shape[1], self.recipe.anchor
        self.needed_lag = self.recipe.needs_lag or max(1, self.anchor - 1)

    def _run(self) -> tuple[list[Tensor], list[Tensor], Tensor]:
        x = self.x.clone().requires_grad_()
        if self.recipe.extra:
            ys = self.module.outputs(x)
            return [], [y.sum(-1, keepdim=True) if self.v.shape[-1] == 1 else y for y in ys], x
        s = self.module.first_state(x)
        s = s if s.requires_grad else s.requires_grad_()
        states, outputs = [s], []
        for t in range(1, self.length + 1):
            s = self.module.step(t, s, x[:, t - 1])
            states.append(s)
            outputs.append(self.module.read(s, x[:, t - 1]))
        return states, outputs, x

    @cached_property
    def states(self) -> list[Tensor]:
        """s_0 .. s_T, each (batch, size)."""
        return [s.detach() for s in self._run()[0]]

    @cached_property
    def gradients(self) -> tuple[np.ndarray, np.ndarray]:
        """||dL/ds_t||, (batch, T + 1), and ||dL/dx_t||, (batch, T)."""
        states, outputs, x = self._run()
        loss = sum((self.v[:, t] * y).sum() for t, y in enumerate(outputs))
        *by_state, by_input = torch.autograd.grad(loss, [*states, x], allow_unused=True)
        filled = [torch.zeros_like(s) if g is None else g for g, s in zip(by_state, states, strict=True)]
        given = torch.zeros_like(x) if by_input is None else by_input
        own = torch.stack(filled, 1) if filled else torch.zeros(len(x), 0, 1)
        return own.norm(dim=-1).numpy(), given.norm(dim=-1).numpy()

    @cached_property
    def influence(self) -> np.ndarray:
        """I(k), k = 0 .. anchor - 1, (batch, anchor)."""
        _, outputs, x = self._run()
        value = (self.v[:, self.anchor - 1] * outputs[self.anchor - 1]).sum()
        (found,) = torch.autograd.grad(value, x, allow_unused=True)
        found = torch.zeros_like(x) if found is None else found
        return found.norm(dim=-1)[:, : self.anchor].flip(1).numpy()

    @cached_property
    def profile(self) -> np.ndarray:
        """Ln of the geometric mean of I(k) over the sequences in which it is not zero; -inf where it is in all."""
        return geometric_mean(self.influence)

    @cached_property
    def slopes(self) -> list[float]:
        """Least-squares slope of ln I(k) over lags 1 .. K of each sequence, zeros left out."""
        found = []
        for row in self.influence[:, 1 : self.needed_lag + 1]:
            lags = np.arange(1, len(row) + 1)[row > 0]
            if len(lags) >= 2:
                found.append(float(np.polyfit(lags, np.log(row[row > 0]), 1)[0]))
        return found

    @property
    def rate(self) -> float | None:
        """Mean slope, nats per step back."""
        return sum(self.slopes) / len(self.slopes) if self.slopes else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % t-interval of the mean slope over sequences; none where all are one slope."""
        n = len(self.slopes)
        if n < 2 or np.ptp(self.slopes) < 1e-9 * max(1.0, abs(self.rate or 0.0)):
            return None
        half = T975[n - 2] * float(np.std(self.slopes, ddof=1)) / math.sqrt(n)
        return self.rate - half, self.rate + half

    @property
    def reach(self) -> int | None:
        """Largest lag with at least 1 % of the influence at lag 1."""
        if len(self.profile) < 2 or self.profile[1] == -math.inf:
            return None
        return int(np.nonzero(self.profile[1:] >= self.profile[1] + math.log(0.01))[0].max()) + 1

    @property
    def coverage(self) -> float | None:
        """Part of the lags from 1 on with at least 1 % of the largest lagged influence."""
        lagged = self.profile[1:]
        if not len(lagged) or lagged.max() == -math.inf:
            return None
        return float((lagged >= lagged.max() + math.log(0.01)).mean())

    @property
    def temporal_range(self) -> float | None:
        """Mean lag, weighted by influence."""
        if self.profile.max() == -math.inf:
            return None
        weight = np.exp(self.profile - self.profile.max())
        return float((weight * np.arange(len(weight))).sum() / weight.sum())

    @property
    def share(self) -> float | None:
        """log10 of the part of the anchor's input gradient at the needed lag, up to that lag where it is stated."""
        mean = self.influence.mean(0)
        if self.needed_lag >= len(mean):
            return None
        among = mean[: self.needed_lag + 1] if self.recipe.needs_lag else mean
        if not among.sum():
            return None
        return math.log10(mean[self.needed_lag] / among.sum()) if mean[self.needed_lag] else -math.inf

    @property
    def zero_lags(self) -> tuple[int, ...]:
        """(first, how many) of the lags 1 .. K at which no sequence has any influence."""
        zero = np.nonzero((self.influence[:, 1 : self.needed_lag + 1] == 0).all(0))[0]
        return (int(zero[0]) + 1, len(zero)) if len(zero) else ()

    @cached_property
    def jacobians(self) -> list[np.ndarray]:
        """J_1 .. J_T of sequence 0, each (size, size)."""
        found = []
        for t in range(1, self.length + 1):
            x, s = self.x[:1, t - 1], self.states[t - 1][:1]
            step = lambda s, t=t, x=x: self.module.step(t, s, x)[0]  # noqa: E731
            found.append(torch.autograd.functional.jacobian(step, s)[:, 0].detach().double().numpy())
        return found

    def product(self, start: int, stop: int) -> np.ndarray:
        """ds_stop/ds_start of sequence 0."""
        found = np.eye(self.recipe.size)
        for jacobian in self.jacobians[start:stop]:
            found = jacobian @ found
        return found

    @property
    def product_norms(self) -> list[float]:
        """Largest singular values of P_0 .. P_T."""
        return [float(np.linalg.svd(self.product(t, self.length))[1][0]) for t in range(self.length + 1)]

    @property
    def directions(self) -> int:
        """Singular values of the product over the needed lag, up to the anchor, of at least 1 % of the largest."""
        sigma = np.linalg.svd(self.product(self.anchor - self.needed_lag, self.anchor))[1]
        return int((sigma >= 0.01 * sigma[0]).sum()) if sigma[0] else 0

    @property
    def is_constant(self) -> bool:
        """Whether the loss is the same for every input: a plain sum over what a norm centres."""
        recipe = self.recipe
        whole = recipe.update not in ("where", "rows", "row numbers", "elements") and not recipe.clockwork
        return whole and recipe.norm and not recipe.head and not recipe.around and recipe.output in ("value", "scalar")

    @cached_property
    def anew(self) -> list[set[int]]:
        """Of every sequence, the steps 2 .. anchor that take over nothing of an earlier one: a reset, a mask of 0."""
        recipe, steps = self.recipe, range(2, self.anchor + 1)
        common = {t for t in steps if recipe.reset and (t - 1) % recipe.reset == 0}
        common |= {t for t in steps if recipe.mask and not self.module.kept[t - 1]}
        own = [{t for t in steps if recipe.own_mask and not self.module.keeps(x[t - 1][None])} for x in self.x]
        return [common | one for one in own]

    @property
    def made_anew(self) -> tuple[int, ...]:
        """Those of sequence 0."""
        return tuple(sorted(self.anew[0]))

    @property
    def stop(self) -> int:
        """The newest step before which no sequence hears of any, since each was made anew or cut since; 0 for none."""
        newest = [max((self.cut, *steps)) for steps in self.anew]
        read = [stop for stop, row in zip(newest, self.influence, strict=True) if row.any()]
        return min(read or newest[:1])

    @property
    def cut(self) -> int:
        """The newest step up to the anchor that takes over a state without its gradient; 0 for none."""
        every = self.recipe.detach
        cuts = {t for t in range(2, self.anchor + 1) if every and (t - 1) % every == 0}
        return max(cuts - {*self.made_anew}, default=0)

    def exponents(self, first: int = 1, order: Sequence[int] = ()) -> np.ndarray:
        """Lyapunov exponents by QR over the steps from `first` on, largest first, nats per step.

        Args:
            first: where the frame is the identity.
            order: of the parts of the state; as they are where nothing is said.
        """
        hidden = self.recipe.hidden
        places = [place * hidden + unit for place in order for unit in range(hidden)] or range(self.recipe.size)
        frame, growth = np.eye(self.recipe.size)[:, places], np.zeros(self.recipe.size)
        for jacobian in self.jacobians[first - 1 :]:
            frame, upper = np.linalg.qr(jacobian @ frame)
            with np.errstate(divide="ignore"):
                growth += np.log(np.abs(np.diag(upper)))
        return np.sort(growth / (self.length - first + 1))[::-1]


def geometric_mean(values: np.ndarray) -> np.ndarray:
    """Ln of the geometric mean over the first axis of what is not zero; -inf where all is."""
    with np.errstate(divide="ignore"):
        logs = np.log(values)
    return np.array([column[column > -np.inf].mean() if (column > -np.inf).any() else -np.inf for column in logs.T])

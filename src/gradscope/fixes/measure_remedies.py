"""Remedies applied to copies of the model, measured like the model itself, ranked and saved."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from safetensors.torch import save as as_bytes
from torch import Tensor

from gradscope.atomic import write_file
from gradscope.chain import ArrayChain
from gradscope.errors import UsageError
from gradscope.fixes.remedy import Remedy, RemedyInput, RemedyResult
from gradscope.loading.source import Source
from gradscope.metrics.forward_pass import pace
from gradscope.models.family import Model
from gradscope.models.stack import Recurrent
from gradscope.numerics.analysis import Analysis, Run
from gradscope.numerics.costs import threads_for
from gradscope.numerics.trace import NotMeasured, Unavailable, attempted
from gradscope.pipeline import Progress, judge_by_influence, runs_of
from gradscope.records import Fix, ModelResult, RunSpec
from gradscope.registry import FIXES, load
from gradscope.text import safe_text
from gradscope.verdicts import GRAVEST_FIRST, best_remedy

FIRM_SHARE, FIRM_GROWTH = -1.75, 1.0
"""Share (log10) and growth over the lag (nats) by which a remedy's gradient is firm: limits that were chosen on the
outcomes of the detector benchmark's first study."""


@dataclass(frozen=True)
class MeasuredRemedy:
    """A remedy, what it made of the first seed's model, and how that came out."""

    remedy: Remedy
    treated: RemedyResult
    result: ModelResult

    def record(self) -> Fix:
        """As it stands in a report."""
        summary = self.result.summary
        return Fix(
            self.remedy.name,
            self.treated.change,
            summary.reach,
            summary.rate,
            self.result.status,
            gradient_share=summary.gradient_share,
        )


def measure_fixes(
    source: Source,
    spec: RunSpec,
    told: Progress = lambda label, done, total: None,
    *,
    x: Tensor | None = None,
    loss: Callable[[Tensor], Tensor] | None = None,
) -> list[MeasuredRemedy]:
    """Every remedy that suits the model, the best first; none for bare Jacobians.

    Args:
        source: the model.
        spec: the settings.
        told: called as told(label, done, total).
        x: inputs (batch, T, features) in place of those of `spec`.
        loss: a function of the output in place of that of `spec`.
    """
    runs, _, _ = runs_of(source, spec, x, loss)
    if isinstance(runs[0].model, ArrayChain):
        return []
    found = []
    for place, name in enumerate(FIXES):
        told("measuring fixes", place, len(FIXES))
        if (one := _measured(load(FIXES[name]), runs, spec, source.name)) is not None:
            found.append(one)
    lag = _analysis(runs[0], spec).needed_lag
    return sorted(found, key=lambda one: _rank(one, lag))


def _measured(remedy: Remedy, runs: tuple[Run, ...], spec: RunSpec, name: str) -> MeasuredRemedy | None:
    treated = [treat(remedy, run, spec, name) for run in runs]
    if any(one is None for one in treated):
        return None
    made = tuple(replace(run, model=one.model) for run, one in zip(runs, treated, strict=True) if one is not None)
    assert treated[0] is not None
    return MeasuredRemedy(remedy, treated[0], judge_by_influence(made, spec, name))


def treat(remedy: Remedy, run: Run, spec: RunSpec, name: str) -> RemedyResult | None:
    """The remedy's changed copy of one run's model; None where it does not suit, or the model cannot be run for it."""
    assert not isinstance(run.model, ArrayChain)
    analysis = _analysis(run, spec)
    with threads_for(_width(run.model)):
        try:
            found = attempted(partial(pace, analysis))
            steps = None if isinstance(found, NotMeasured) else found
            return remedy.apply(RemedyInput(run.model, name, analysis.needed_lag, run.x, run.seed, run.loss, steps))
        except (UsageError, Unavailable):
            return None


def _analysis(run: Run, spec: RunSpec) -> Analysis:
    """Whose needed lag is how far back a remedy must reach: all that lies before the newest output that is read."""
    return Analysis((run,), spec, detail=False)


def _width(model: Model) -> int:
    """What a step's products are about as wide as."""
    if isinstance(model, Recurrent):
        return model.state_size
    return max((min(value.shape) for value in model.parameters().values() if value.ndim > 1), default=1)


def _rank(one: MeasuredRemedy, lag: int) -> tuple[bool, int, bool, bool, float]:
    """Better status first; then a large share that does not grow; then what leaves the model what it is; the share."""
    summary, treated = one.result.summary, one.treated
    share = summary.gradient_share if summary.gradient_share is not None else -math.inf
    firm = share > FIRM_SHARE and (summary.rate or 0.0) * lag <= FIRM_GROWTH
    # A hundredth of a decade is what other random numbers change: there the order of the table stays.
    return treated.of_training, -GRAVEST_FIRST.index(one.result.status), not firm, treated.another, -round(share, 2)


NO_NAME = re.compile(r"[^A-Za-z0-9.=,+-]+")
"""What a file's name is spared."""


def save(found: Sequence[MeasuredRemedy], spec: RunSpec, model: ModelResult) -> str:
    """Write the remedy that was asked for, else the one that is recommended; returns what was written, in words.

    Raises:
        UsageError: the remedy that was asked for was not measured, or the folder cannot be written to.
    """
    best = best_remedy(model.fixes, model.status, model.summary.gradient_share)
    wanted, name = spec.remedy or (best.name if best is not None else None), safe_text(model.name)
    chosen = next((one for one in found if one.remedy.name == wanted), None)
    if chosen is None:
        names = ", ".join(one.remedy.name for one in found) or "none"
        if spec.remedy is not None or not found:
            raise UsageError(f"--save: {spec.remedy or 'no remedy'} does not suit {name} (measured: {names})")
        why = f"{wanted} changes no weights" if wanted else "no remedy makes it better"
        return f"--save wrote nothing for {name}: {why}; --remedy NAME writes one all the same (measured: {names})"
    # Several models, and runs of others in the same folder, have the same remedies.
    stem = f"{NO_NAME.sub('_', model.name).strip('_.') or 'model'}-{chosen.remedy.name.replace(' ', '_')}"
    folder = Path(spec.save or ".")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--save '{safe_text(folder)}': {error.strerror}; name a folder that can be written") from None
    paths = [folder / f"{stem}.py"]
    write_file(paths[0], f"{_head(chosen, stem)}{chosen.treated.code}".encode())
    if chosen.treated.weights:
        paths.insert(0, folder / f"{stem}.safetensors")
        weights = {key: value.detach().cpu().contiguous().clone() for key, value in chosen.treated.weights.items()}
        write_file(paths[0], as_bytes(weights))
    about = "" if chosen.treated.weights else " (no weights: it changes the training)"
    return f"{chosen.remedy.name} for {name} written to {safe_text(' and '.join(map(str, paths)))}{about}"


def _head(chosen: MeasuredRemedy, stem: str) -> str:
    """What the lines are, and where the weights that were measured are; some lines draw others at random."""
    said = f"# {chosen.remedy.name}: {chosen.treated.change}\n"
    if not chosen.treated.weights:
        return said
    said += f'# What was measured: load_state_dict(safetensors.torch.load_file("{stem}.safetensors"))'
    drawn = any(word in chosen.treated.code for word in ("uniform_", "orthogonal_", "model = "))
    return f"{said}; these lines draw anew.\n" if drawn else f"{said}\n"

"""From a run's settings to a report: load, make the sequence, analyse, judge."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from gradscope import __version__
from gradscope.assemble import complete_result, result_without_spectra
from gradscope.chain import ArrayChain
from gradscope.errors import UsageError
from gradscope.isolation.caller_state import isolated, own_random_numbers, standard_output
from gradscope.loading.from_word import source_of
from gradscope.loading.objects import source_from_object
from gradscope.loading.source import Source
from gradscope.loading.user_module import has_own_head
from gradscope.metrics import collect
from gradscope.models.token_models import TokenIds
from gradscope.models.whole_module import WholeModule
from gradscope.numerics.analysis import Analysis, Run
from gradscope.numerics.costs import require_memory, threads_for
from gradscope.records import BUILT, Loaded, ModelResult, Report, RunSpec, Timing
from gradscope.registry import SUMMARY_METRICS
from gradscope.rules.judge import selected_rules, with_verdicts
from gradscope.sequences.batch import Batch
from gradscope.sequences.losses import make_loss
from gradscope.sequences.make_batch import make_batch
from gradscope.sequences.token_ids import given_ids
from gradscope.verdicts import FOR_GOOD

Progress = Callable[[str, int, int], None]


Early = Callable[[ModelResult], None]


@isolated()
def diagnose(
    spec: RunSpec,
    *,
    costs: bool = False,
    detail: bool = True,
    progress: Progress | None = None,
    early: Early | None = None,
) -> Report:
    """Analyse every model of `spec` on the same sequence and seed.

    Args:
        spec: the settings.
        costs: also count operations on the autograd graph and time training steps.
        detail: singular spectra at all log-spaced lags, for formats that show them; a screen takes the decades.
        progress: called as progress(label, done, total) during long work.
        early: called with a model's result as far as its verdict is known, before spectra; not where they may change
            the verdict.

    Raises:
        UsageError: something asked for cannot be had.
    """
    sources = [source_of(word, spec) for word in spec.models]
    return diagnose_sources(sources, spec, costs=costs, detail=detail, progress=progress, early=early)


@isolated()
def diagnose_sources(
    sources: list[Source],
    spec: RunSpec,
    *,
    x: torch.Tensor | None = None,
    loss: Callable[[torch.Tensor], torch.Tensor] | None = None,
    costs: bool = False,
    detail: bool = True,
    progress: Progress | None = None,
    early: Early | None = None,
) -> Report:
    """`diagnose` for models that are already at hand; `x` (batch, T, features) and `loss` replace those of `spec`."""
    begun = time.perf_counter()
    selected_rules(spec)
    _prepare(spec)
    sources = _told_apart(sources)
    told = progress or (lambda label, done, total: None)
    results, times, steps = [], {}, {}
    for source in sources:
        start = time.perf_counter()
        # A user's code may draw random numbers: the same ones every time, and none of the caller's.
        with own_random_numbers(spec.seed), source.code.active():
            runs, batch, notes = runs_of(source, spec, x, loss)
            analysis = Analysis(runs, _settled(spec, runs), told, detail=detail)
            with threads_for(analysis.size):
                if early is not None and (known := _early(source, analysis, batch, notes)) is not None:
                    with standard_output():
                        early(known)
                results.append(complete_result(source, analysis, batch, notes, costs=costs))
                if costs and not isinstance(analysis.model, ArrayChain):
                    told("timing a training step", 0, 0)
                    steps[source.name] = _training_step(analysis)
        times[source.name] = time.perf_counter() - start
    timing = Timing(time.perf_counter() - begun, times, steps)
    return Report(spec, _environment(), tuple(results), timing)


@isolated()
def diagnose_object(
    thing: Any,
    name: str,
    spec: RunSpec,
    x: torch.Tensor,
    measure: Callable[[Analysis], collect.MetricValues],
    loss: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> ModelResult:
    """One object on one batch, judged by as much as `measure` finds out.

    It takes the threads that there are: in somebody's training loop they are not ours to change.
    """
    _prepare(spec)
    with own_random_numbers(spec.seed):
        source = source_from_object(thing, name, spec)
        runs, batch, notes = runs_of(source, spec, x, loss)
        analysis = Analysis(runs, _settled(spec, runs), detail=False)
        known = result_without_spectra(
            source.name, source.loaded, analysis, measure(analysis), tokens=batch.tokens, notes=notes
        )
        return with_verdicts(known, analysis.spec)


def _told_apart(sources: list[Source]) -> list[Source]:
    """Equal names get numbers: `lstm`, `lstm#2`."""
    names = [source.name for source in sources]
    counts = [names[: place + 1].count(name) for place, name in enumerate(names)]
    pairs = zip(sources, counts, strict=True)
    return [source if n == 1 else replace(source, name=f"{source.name}#{n}") for source, n in pairs]


def _training_step(analysis: Analysis) -> dict[str, Any]:
    from gradscope.numerics.costs import training_step_growth

    run = analysis.runs[0]
    assert not isinstance(run.model, ArrayChain)
    return training_step_growth(run.model, analysis.length, run.x.shape[0])


def _prepare(spec: RunSpec) -> None:
    """Refuse a device that is not there before anything is built on it."""
    if spec.device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"device '{spec.device}' is not available here; use --device cpu")
    if spec.device.startswith("cuda"):
        # Random numbers of a device that is started only later would not be put back.
        torch.cuda.init()
    if spec.device == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device 'mps' is not available here; use --device cpu")


def runs_of(
    source: Source,
    spec: RunSpec,
    x: torch.Tensor | None = None,
    loss: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> tuple[tuple[Run, ...], Batch, tuple[str, ...]]:
    """Runs of all seeds, the first seed's batch, and what to tell the user."""
    if source.input_size and spec.input_size not in (None, source.input_size):
        told = f"--input-size is {spec.input_size}, {source.name} takes {source.input_size} features"
        raise UsageError(f"{told}; leave --input-size out")
    runs, batches, notes = [], [], []
    for seed in range(spec.seed, spec.seed + spec.seeds):
        asked = replace(spec, needs_lag=None, item=0) if source.is_chain else spec
        if x is None:
            batch = make_batch(asked, seed=seed, input_size=source.input_size, ids=source.ids)
        else:
            ids = source.ids or _ids_in(x)
            batch = _given(x, spec, source.input_size) if ids is None else given_ids(x, spec, ids)
        if source.is_backwards and asked.task is None:
            batch = batch.turned()
        model = source.make(batch.x.shape[-1], seed)
        chosen = make_loss(spec, replace(batch, has_head=has_own_head(model)), seed=seed) if loss is None else loss
        if isinstance(model, WholeModule):
            batch = replace(batch, x=model.fitted(batch.x))
            notes += [model.unfit] if model.unfit else []
        runs.append(Run(model, batch.x, chosen, seed))
        batches.append(batch)
        notes += [*batch.notes, *getattr(chosen, "notes", ())]
    batch, model = batches[0], runs[0].model
    _check(spec, batch, model)
    if batch.x.shape[-1] == 0:
        notes.append("no input: influence is measured on the state")
    if source.loaded.trained is not False and batch.source == "random" and batch.x.shape[-1]:
        notes.insert(0, "random input, not your data")
    return tuple(runs), batch, tuple(dict.fromkeys(notes))


def _settled(spec: RunSpec, runs: tuple[Run, ...]) -> RunSpec:
    """The settings as they hold for what is run."""
    types = (run.model.runs_in for run in runs if isinstance(run.model, WholeModule) and run.model.runs_in is not None)
    kind = next(types, None)
    return spec if kind is None else replace(spec, dtype=str(kind)[6:])


def _ids_in(x: torch.Tensor) -> TokenIds | None:
    """What whole numbers (batch, T) say of the ids that a module takes which has no layer to ask."""
    if x.ndim != 2 or x.is_floating_point() or x.is_complex() or x.dtype == torch.bool or not x.numel():
        return None
    return TokenIds(int(x.max()) + 1, None)


def _given(x: torch.Tensor, spec: RunSpec, features: int | None) -> Batch:
    if x.ndim != 3 or x.shape[1] < 2:
        raise UsageError(f"x has shape {tuple(x.shape)}; expected (batch, T, features) with at least 2 steps")
    if features is not None and x.shape[-1] != features:
        raise UsageError(f"x has {x.shape[-1]} features in shape {tuple(x.shape)}; the model takes {features}")
    # A copy: a step or a module may write into what it is given.
    moved = x.detach().to(spec.device, getattr(torch, spec.dtype), copy=True)
    return Batch(x=moved, tokens=None, token_ids=None, vocabulary=None, notes=(), source="given")


def _check(spec: RunSpec, batch: Batch, model: Any) -> None:
    """What can only be known once sequence and model exist."""
    sequences, length = (model.batch, model.length) if isinstance(model, ArrayChain) else batch.x.shape[:2]
    if spec.needs_lag is not None and spec.needs_lag > length - 1:
        needed = f"--needs-lag {spec.needs_lag} needs {spec.needs_lag + 1} steps, the sequence has {length}"
        raise UsageError(f"{needed}; lower it to {length - 1} or less, or give more steps")
    if spec.item >= sequences:
        raise UsageError(f"item {spec.item} does not exist: there are {sequences} sequences, counted from 0")
    require_memory(model, sequences, length, spec.seeds)


def judge_by_influence(runs: tuple[Run, ...], spec: RunSpec, name: str) -> ModelResult:
    """The influence of a model, what follows from it, and its status, as all of its analysis would give it.

    Jacobians are asked alone for the directions that are left of the state, and only where they may change the status.
    """
    with own_random_numbers(spec.seed):
        analysis = Analysis(runs, _settled(spec, runs), detail=False)
        with threads_for(analysis.size):
            known = with_verdicts(
                result_without_spectra(name, Loaded(BUILT), analysis, collect.metrics_before_jacobians(analysis)),
                analysis.spec,
            )
            if known.status in FOR_GOOD:
                return known
            found, skipped = collect.gather(analysis, {"directions": SUMMARY_METRICS["directions"]})
    whole = replace(known, summary=replace(known.summary, **found), skipped={**known.skipped, **skipped})
    return with_verdicts(whole, analysis.spec)


def _early(source: Source, analysis: Analysis, batch: Batch, notes: tuple[str, ...]) -> ModelResult | None:
    """The result as far as its verdict is known before any Jacobian; None where spectra may still change it."""
    measured = collect.metrics_before_jacobians(analysis)
    known = result_without_spectra(source.name, source.loaded, analysis, measured, tokens=batch.tokens, notes=notes)
    found = with_verdicts(known, analysis.spec)
    # Exact zeros may turn out to come from a cut, which Jacobians tell.
    return found if found.status in FOR_GOOD and not found.summary.zero_lags else None


def _environment() -> dict[str, str]:
    return {
        "gradscope": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
        "platform": platform.machine(),
    }

"""From a run's settings to a report: load, make the sequence, analyse, judge."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from gradscope import __version__
from gradscope.chain import ArrayChain
from gradscope.errors import UsageError
from gradscope.loading.code.objects import source_from_object
from gradscope.loading.source import Source
from gradscope.loading.word import source_of
from gradscope.metrics import collect, layers
from gradscope.models.direct import Direct
from gradscope.numerics.analysis import Analysis, Run, Unavailable
from gradscope.numerics.costs.memory import require_memory
from gradscope.numerics.costs.threads import threads_for
from gradscope.numerics.full_precision import full_precision
from gradscope.numerics.spectra.affordable import too_much
from gradscope.records import (
    Attention,
    Loaded,
    ModelResult,
    Pair,
    Report,
    RunSpec,
    Series,
    SingularValues,
    Summary,
    Timing,
)
from gradscope.rules.judge import judge, selected, status
from gradscope.rules.presets import said_by
from gradscope.sequences.batch import Batch
from gradscope.sequences.build import make_batch
from gradscope.sequences.ids import given_ids
from gradscope.sequences.losses import make_loss

Progress = Callable[[str, int, int], None]


SETTLED = ("non-finite", "exploding", "vanishing")
"""Words that no later finding takes back: they are the gravest, and rest on the influence alone."""
Early = Callable[[ModelResult], None]


def diagnose(
    spec: RunSpec,
    *,
    compare: bool = False,
    detail: bool = True,
    progress: Progress | None = None,
    early: Early | None = None,
) -> Report:
    """Analyse every model of `spec` on the same sequence and seed.

    Args:
        spec: the settings.
        compare: also count operations on the autograd graph and time training steps.
        detail: singular spectra at all log-spaced lags, for formats that show them; a screen takes the decades.
        progress: called as progress(label, done, total) during long work.
        early: called with a model's result as far as its verdict is known, before spectra; not where they may change
            the verdict.

    Raises:
        UsageError: something asked for cannot be had.
    """
    sources = [source_of(word, spec) for word in spec.models]
    return diagnose_sources(sources, spec, compare=compare, detail=detail, progress=progress, early=early)


def diagnose_sources(
    sources: list[Source],
    spec: RunSpec,
    *,
    x: torch.Tensor | None = None,
    loss: Callable[[torch.Tensor], torch.Tensor] | None = None,
    compare: bool = False,
    detail: bool = True,
    progress: Progress | None = None,
    early: Early | None = None,
) -> Report:
    """`diagnose` for models that are already at hand; `x` (batch, T, features) and `loss` replace those of `spec`."""
    begun = time.perf_counter()
    selected(spec)
    _prepare(spec)
    sources = _told_apart(sources)
    told = progress or (lambda label, done, total: None)
    results, times, steps = [], {}, {}
    for source in sources:
        start = time.perf_counter()
        # A user's code may draw random numbers: the same ones every time, and none of the caller's.
        with torch.random.fork_rng(devices=[]), full_precision():
            torch.manual_seed(spec.seed)
            runs, batch, notes = runs_of(source, spec, x, loss)
            analysis = Analysis(runs, spec, told, detail=detail)
            with threads_for(analysis.trace.size):
                if early is not None and (known := _early(source, analysis, batch, notes)) is not None:
                    early(known)
                results.append(_result(source, analysis, batch, notes, compare))
                if compare and not isinstance(analysis.model, ArrayChain):
                    told("timing a training step", 0, 0)
                    steps[source.name] = _training_step(analysis)
        times[source.name] = time.perf_counter() - start
    timing = Timing(time.perf_counter() - begun, times, steps)
    return Report(spec, _environment(), tuple(results), timing)


def examined(
    thing: Any,
    name: str,
    spec: RunSpec,
    x: torch.Tensor,
    measure: Callable[[Analysis], tuple[Summary, dict[str, str], Series]],
    loss: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> ModelResult:
    """One object on one batch, judged by as much as `measure` finds out: summary, what is missing, series.

    It takes the threads that there are: in somebody's training loop they are not ours to change.
    """
    _prepare(spec)
    with torch.random.fork_rng(devices=[]), full_precision():
        torch.manual_seed(spec.seed)
        source = source_from_object(thing, name, spec)
        runs, batch, notes = runs_of(source, spec, x, loss)
        summary, skipped, series = measure(analysis := Analysis(runs, spec, detail=False))
        unjudged = _unjudged(source, analysis, batch, notes, summary, series, skipped)
        verdicts = judge(unjudged, spec)
        return replace(unjudged, verdicts=verdicts, status=status(verdicts))


def _told_apart(sources: list[Source]) -> list[Source]:
    """Equal names get numbers: `lstm`, `lstm#2`."""
    names = [source.name for source in sources]
    counts = [names[: place + 1].count(name) for place, name in enumerate(names)]
    pairs = zip(sources, counts, strict=True)
    return [source if n == 1 else replace(source, name=f"{source.name}#{n}") for source, n in pairs]


def _training_step(analysis: Analysis) -> dict[str, Any]:
    from gradscope.numerics.costs.timing import training_step_growth

    run = analysis.runs[0]
    assert not isinstance(run.model, ArrayChain)
    return training_step_growth(run.model, analysis.length, run.x.shape[0])


def _prepare(spec: RunSpec) -> None:
    """Refuse a device that is not there before anything is built on it."""
    if spec.device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"device '{spec.device}' is not available here; use --device cpu")
    if spec.device == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device 'mps' is not available here; use --device cpu")


def runs_of(
    source: Source,
    spec: RunSpec,
    x: torch.Tensor | None = None,
    loss: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> tuple[tuple[Run, ...], Batch, tuple[str, ...]]:
    """Runs of all seeds, the first seed's batch, and what to tell the user."""
    runs, batches, notes = [], [], []
    for seed in range(spec.seed, spec.seed + spec.seeds):
        asked = replace(spec, needs_lag=None, item=0) if source.is_chain else spec
        if x is None:
            batch = make_batch(asked, seed=seed, input_size=source.input_size, ids=source.ids)
        else:
            batch = _given(x, spec) if source.ids is None else given_ids(x, spec, source.ids)
        model = source.make(batch.x.shape[-1], seed)
        chosen = make_loss(spec, batch, seed=seed) if loss is None else loss
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


def _given(x: torch.Tensor, spec: RunSpec) -> Batch:
    if x.ndim != 3 or x.shape[1] < 2:
        raise UsageError(f"x has shape {tuple(x.shape)}; expected (batch, T, features) with at least 2 steps")
    moved = x.detach().to(spec.device, getattr(torch, spec.dtype))
    return Batch(x=moved, tokens=None, token_ids=None, vocabulary=None, notes=(), source="given")


def _check(spec: RunSpec, batch: Batch, model: Any) -> None:
    """What can only be known once sequence and model exist."""
    sequences, length = (model.batch, model.length) if isinstance(model, ArrayChain) else batch.x.shape[:2]
    if spec.needs_lag is not None and spec.needs_lag > length - 1:
        remedy = "lower --needs-lag or raise --length"
        raise UsageError(f"needed lag {spec.needs_lag} is outside 1..{length - 1} for {length} steps; {remedy}")
    if spec.item >= sequences:
        raise UsageError(f"item {spec.item} does not exist: there are {sequences} sequences, counted from 0")
    require_memory(model, sequences * spec.seeds, length)


def glance(runs: tuple[Run, ...], spec: RunSpec, name: str) -> ModelResult:
    """What is known of a model before any Jacobian: its influence, what follows from it, and its status."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        analysis = Analysis(runs, spec, detail=False)
        with threads_for(analysis.trace.size):
            summary, series, skipped = collect.early(analysis)
        unjudged = ModelResult(
            name,
            analysis.trace.kind,
            "inconclusive",
            analysis.trace.size,
            analysis.length,
            Loaded("built"),
            summary,
            series,
            skipped=skipped,
            heading=heading(analysis),
        )
    verdicts = judge(unjudged, spec)
    return replace(unjudged, verdicts=verdicts, status=status(verdicts))


def _early(source: Source, analysis: Analysis, batch: Batch, notes: tuple[str, ...]) -> ModelResult | None:
    """The result as far as its verdict is known before any Jacobian; None where spectra may still change it."""
    summary, series, skipped = collect.early(analysis)
    unjudged = _unjudged(source, analysis, batch, notes, summary, series, skipped)
    verdicts = judge(unjudged, analysis.spec)
    found = status(verdicts)
    return replace(unjudged, verdicts=verdicts, status=found) if found in SETTLED else None


def _unjudged(
    source: Source,
    analysis: Analysis,
    batch: Batch,
    notes: tuple[str, ...],
    summary: Summary,
    series: Series,
    skipped: dict[str, str],
) -> ModelResult:
    """A result without spectra."""
    return ModelResult(
        name=source.name,
        kind=analysis.trace.kind,
        status="inconclusive",
        size=analysis.trace.size,
        length=analysis.length,
        loaded=source.loaded,
        summary=summary,
        series=replace(series, token=batch.tokens),
        skipped=skipped,
        heading=heading(analysis),
        notes=notes,
    )


def _result(source: Source, analysis: Analysis, batch: Batch, notes: tuple[str, ...], compare: bool) -> ModelResult:
    """Measure, then judge."""
    spec = analysis.spec
    series, bands, skipped = collect.series(analysis, batch.tokens)
    ahead = (f"{analysis.ahead}, so it has no reach",) if analysis.ahead else ()
    notes = (*notes, *analysis.remarks, *ahead, *_narrowed(analysis))
    summary, more = collect.summary(analysis, compare)
    singular, why = _singular_values(analysis)
    unjudged = ModelResult(
        name=source.name,
        kind=analysis.trace.kind,
        status="inconclusive",
        size=analysis.trace.size,
        length=analysis.length,
        loaded=replace(source.loaded, equality_check=analysis.equality),
        summary=summary,
        series=series,
        bands=bands,
        singular_values=singular,
        layers=layers.measure(analysis),
        attention=_attention(analysis, batch),
        pairs=_pairs(analysis, batch),
        step_pairs=_step_pairs(analysis),
        skipped={**skipped, **more, **why},
        heading=heading(analysis),
        notes=notes,
    )
    verdicts = judge(unjudged, spec)
    beside = said_by(spec.preset, summary.parameters)
    return replace(unjudged, verdicts=verdicts, status=status(verdicts), notes=(*notes, *beside))


def _narrowed(analysis: Analysis) -> tuple[str, ...]:
    """Said where only some directions are measured for want of time, or no Jacobians of a user's module, and why."""
    model = analysis.model
    try:
        chain, full = analysis.chain, analysis.full
    except Unavailable as reason:
        opened = isinstance(model, Direct) and model.kind == "module" and not model.closed
        return (f"no Jacobians: {reason}",) if opened and not reason.told else ()
    if full or analysis.trace.kind != "recurrent":
        return ()
    lags = ", ".join(map(str, analysis.leading.lag))
    return (f"{too_much(chain.length, chain.size)}, at lags {lags}",)


def _singular_values(analysis: Analysis) -> tuple[SingularValues | None, dict[str, str]]:
    try:
        if not analysis.full:
            lead = analysis.leading
            settled = lead.residual < 1e-3
            found = SingularValues(
                tuple(lead.lag),
                tuple(tuple(row) for row in lead.ln_sigma.tolist()),
                tuple(tuple(row) for row in settled.tolist()),
            )
            return found, {}
        lags, spectra = analysis.spectra
    except Unavailable as reason:
        return None, {"singular_values": str(reason)}
    logs = tuple(tuple(s.ln_sigma.tolist()) for s in spectra)
    return SingularValues(tuple(lags), logs, tuple(tuple(s.resolved.tolist()) for s in spectra)), {}


def _step_pairs(analysis: Analysis) -> dict[str, Any] | None:
    """The map over pairs of steps, for formats that show it; where there is none, spectra say why."""
    try:
        return analysis.step_pairs if analysis.detail else None
    except Unavailable:
        return None


def _attention(analysis: Analysis, batch: Batch) -> Attention | None:
    model, item = analysis.model, analysis.spec.item
    if not isinstance(model, Direct) or model.weights is None or analysis.non_finite is not None:
        return None
    from gradscope.numerics.pairs.attention_map import attention_maps

    return attention_maps(model, batch.x[item : item + 1], batch.tokens)


def _pairs(analysis: Analysis, batch: Batch) -> tuple[Pair, ...]:
    model, spec = analysis.model, analysis.spec
    if not spec.pair:
        return ()
    if isinstance(model, ArrayChain):
        raise UsageError("--pair needs a model with an input; a file of Jacobians has none")
    from gradscope.numerics.pairs.measure import measure_pairs

    return measure_pairs(model, batch.x[spec.item : spec.item + 1], batch.tokens, spec.pair)


def heading(analysis: Analysis) -> str:
    """`1x64 · T=200 · 8 sequences · seed 0 · float64 · cpu`."""
    trace, spec = analysis.trace, analysis.spec
    count = trace.sequences
    seeds = f"seed {spec.seed}" if spec.seeds == 1 else f"seeds {spec.seed}-{spec.seed + spec.seeds - 1}"
    sequences = f"{count} sequence{'s' if count != 1 else ''}"
    return f"{trace.shape} · T={analysis.length} · {sequences} · {seeds} · {spec.dtype} · {spec.device}"


def _environment() -> dict[str, str]:
    return {
        "gradscope": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
        "platform": platform.machine(),
    }

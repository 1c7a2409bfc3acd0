"""From an analysis to the record of a model: what its rooms measured, each in its place, and what the rules say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gradscope.chain import ArrayChain
from gradscope.errors import UsageError
from gradscope.loading.source import Source
from gradscope.metrics import collect, layers
from gradscope.models.fused_call import recurrent_parts
from gradscope.models.whole_module import WholeModule
from gradscope.numerics.analysis import Analysis
from gradscope.numerics.loop_trace import LoopTrace
from gradscope.numerics.module_trace import ModuleTrace
from gradscope.numerics.products import too_much
from gradscope.numerics.trace import NotMeasured, attempted
from gradscope.records import Attention, Loaded, ModelResult, Pair, SingularValues
from gradscope.rules.judge import with_verdicts
from gradscope.rules.presets import other_tools_say
from gradscope.sequences.batch import Batch
from gradscope.text import counted


def result_without_spectra(
    name: str,
    loaded: Loaded,
    analysis: Analysis,
    measured: collect.MetricValues,
    *,
    tokens: tuple[str, ...] | None = None,
    notes: tuple[str, ...] = (),
) -> ModelResult:
    """A result without spectra that nobody has judged."""
    summary, series, skipped = measured
    return ModelResult(
        name=name,
        kind=analysis.kind,
        status="inconclusive",
        size=analysis.size,
        length=analysis.length,
        loaded=replace(loaded, parts=_parts(analysis)),
        summary=summary,
        series=replace(series, token=tokens),
        skipped=skipped,
        heading=heading(analysis),
        notes=notes,
    )


def _parts(analysis: Analysis) -> dict[str, str]:
    """Recurrences of torch.nn that a user's module runs, by dotted name."""
    trace = analysis.trace
    if not isinstance(trace, ModuleTrace) or trace.model.kind != "module" or analysis.kind != "recurrent":
        return {}
    graph = trace.first.graph if isinstance(trace, LoopTrace) else None
    if graph is None:
        walked = {id(one.module) for one in trace.seen.recurrences}
        return recurrent_parts(trace.model.module, lambda part: id(part) in walked)
    read = {id(node.variable) for node, leaf in zip(graph.nodes, graph.is_leaf, strict=True) if leaf}
    return recurrent_parts(trace.model.module, lambda part: any(id(p) in read for p in part.parameters()))


def complete_result(
    source: Source, analysis: Analysis, batch: Batch, notes: tuple[str, ...], *, costs: bool
) -> ModelResult:
    """Everything that is measured on a model, judged; what it costs only where asked for."""
    series, bands, skipped = collect.series(analysis, batch.tokens)
    ahead = (f"{analysis.ahead}, so it has no reach",) if analysis.ahead else ()
    notes = (*notes, *analysis.remarks, *ahead, *_fewer_anchors(analysis), *_narrowed(analysis))
    summary, more = collect.summary(analysis, costs=costs)
    singular, why = _singular_values(analysis)
    loaded = replace(source.loaded, equality_check=analysis.equality)
    by_layer = attempted(lambda: layers.measure(analysis))
    if isinstance(by_layer, NotMeasured):
        why["layers"] = by_layer.reason
    if analysis.refused:
        why["chain"] = analysis.refused
    measured = (summary, series, {**skipped, **more, **why})
    result = replace(
        result_without_spectra(source.name, loaded, analysis, measured, tokens=batch.tokens, notes=notes),
        bands=bands,
        singular_values=singular,
        layers=() if isinstance(by_layer, NotMeasured) else by_layer,
        attention=_attention(analysis, batch),
        pairs=_pairs(analysis, batch),
        step_pairs=_step_pairs(analysis),
    )
    spec = analysis.spec
    return replace(with_verdicts(result, spec), notes=(*notes, *other_tools_say(spec.preset, summary.parameters)))


def _fewer_anchors(analysis: Analysis) -> tuple[str, ...]:
    """Said where the loss reads fewer steps than the influence was to be measured from."""
    anchors, asked = attempted(lambda: analysis.anchors), analysis.spec.anchors
    if isinstance(anchors, NotMeasured) or not 0 < len(anchors) < asked:
        return ()
    taken = counted(len(anchors), "step")
    return (
        f"influence is measured from {taken}, not {asked} (--anchors): the loss reads no others in the newest half",
    )


def _narrowed(analysis: Analysis) -> tuple[str, ...]:
    """Said where only some directions are measured for want of time, or no Jacobians of a user's module, and why."""
    model = analysis.model
    chain = attempted(lambda: analysis.chain)
    if isinstance(chain, NotMeasured):
        opened = isinstance(model, WholeModule) and model.kind == "module" and not model.closed
        return (f"no Jacobians: {chain.reason}",) if opened and not chain.told else ()
    if analysis.full or analysis.kind != "recurrent":
        return ()
    leading = attempted(lambda: analysis.leading)
    if isinstance(leading, NotMeasured):
        return ()
    return (f"{too_much(chain.length, chain.size)}, at lags {', '.join(map(str, leading.lag))}",)


def _singular_values(analysis: Analysis) -> tuple[SingularValues | None, dict[str, str]]:
    found = attempted(lambda: _spectra(analysis))
    return (None, {"singular_values": found.reason}) if isinstance(found, NotMeasured) else (found, {})


def _spectra(analysis: Analysis) -> SingularValues:
    if not analysis.full:
        lead = analysis.leading
        settled = lead.residual < 1e-3
        return SingularValues(
            tuple(lead.lag),
            tuple(tuple(row) for row in lead.ln_sigma.tolist()),
            tuple(tuple(row) for row in settled.tolist()),
        )
    lags, spectra = analysis.spectra
    logs = tuple(tuple(s.ln_sigma.tolist()) for s in spectra)
    return SingularValues(tuple(lags), logs, tuple(tuple(s.resolved.tolist()) for s in spectra))


def _step_pairs(analysis: Analysis) -> dict[str, Any] | None:
    """The map over pairs of steps, for formats that show it; where there is none, spectra say why."""
    found = attempted(lambda: analysis.step_pairs if analysis.detail else None)
    return None if isinstance(found, NotMeasured) else found


def _attention(analysis: Analysis, batch: Batch) -> Attention | None:
    model, item = analysis.model, analysis.spec.item
    if not isinstance(model, WholeModule) or model.weights is None or analysis.non_finite is not None:
        return None
    from gradscope.numerics.token_pairs import attention_maps

    return attention_maps(model, batch.x[item : item + 1], batch.tokens)


def _pairs(analysis: Analysis, batch: Batch) -> tuple[Pair, ...]:
    model, spec = analysis.model, analysis.spec
    if not spec.pair:
        return ()
    if isinstance(model, ArrayChain):
        raise UsageError("--pair needs a model with an input; a file of Jacobians has none")
    from gradscope.numerics.token_pairs import measure_pairs

    return measure_pairs(model, batch.x[spec.item : spec.item + 1], batch.tokens, spec.pair)


def heading(analysis: Analysis) -> str:
    """`1x64 · T=200 · 8 sequences · seed 0 · float64 · cpu`."""
    spec, count = analysis.spec, analysis.trace.sequences
    seeds = f"seed {spec.seed}" if spec.seeds == 1 else f"seeds {spec.seed}-{spec.seed + spec.seeds - 1}"
    sequences = counted(count, "sequence")
    return f"{analysis.shape} · T={analysis.length} · {sequences} · {seeds} · {spec.dtype} · {spec.device}"

"""All that a run may ask of a model: its diagnosis, and what is trained or changed to prove it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from gradscope.isolation.caller_state import isolated
from gradscope.loading.from_word import source_of
from gradscope.loading.source import Source
from gradscope.pipeline import Early, Progress, diagnose_sources
from gradscope.records import ModelResult, Report, RunSpec
from gradscope.rules.judge import with_verdicts

NONE_SUITS = (
    "no remedy suits: they change families, weights in files, layers of torch.nn inside a module, and the matrices and "
    "gates of loops over steps where these are parameters themselves"
)

OF_CODE = ("GS401", "GS403", "GS405")
"""Findings that no remedy of weights or cells can change."""

if TYPE_CHECKING:
    from torch import Tensor


@isolated()
def full_report(
    spec: RunSpec,
    *,
    costs: bool = False,
    detail: bool = True,
    progress: Progress | None = None,
    early: Early | None = None,
) -> Report:
    """Diagnose every model of `spec`; probe it and measure remedies where that is asked for.

    Arguments as for `pipeline.diagnose`.

    Raises:
        UsageError: something asked for cannot be had.
    """
    sources = [source_of(word, spec) for word in spec.models]
    return full_report_of_sources(sources, spec, costs=costs, detail=detail, progress=progress, early=early)


@isolated()
def full_report_of_sources(
    sources: list[Source],
    spec: RunSpec,
    *,
    x: Tensor | None = None,
    loss: Callable[[Tensor], Tensor] | None = None,
    costs: bool = False,
    detail: bool = True,
    progress: Progress | None = None,
    early: Early | None = None,
) -> Report:
    """`full_report` of models that are at hand; `x` (batch, T, features) and `loss` replace those of `spec`."""
    report = diagnose_sources(sources, spec, x=x, loss=loss, costs=costs, detail=detail, progress=progress, early=early)
    told, models = progress or (lambda label, done, total: None), list(report.models)
    for place, source in enumerate(sources):
        with source.code.active():
            if spec.probe:
                models[place] = _probed(source, models[place], spec, told)
            if spec.fix:
                models[place] = _fixed(source, models[place], spec, told, x, loss)
    return replace(report, models=tuple(models))


def _fixed(
    source: Source,
    model: ModelResult,
    spec: RunSpec,
    told: Progress,
    x: Tensor | None,
    loss: Callable[[Tensor], Tensor] | None,
) -> ModelResult:
    from gradscope.fixes.measure_remedies import measure_fixes

    code = next((v.code for v in model.verdicts if v.gives == model.status and v.code in OF_CODE), None)
    if code is not None:
        why = f"{code} is about the code around the layers, which no change of weights or cells can mend"
        return replace(model, skipped={**model.skipped, "fixes": why})
    found = measure_fixes(source, spec, told, x=x, loss=loss)
    if not found:
        model = replace(model, skipped={**model.skipped, "fixes": NONE_SUITS})
    fixes = tuple(one.record() for one in found)
    if spec.probe:
        from gradscope.fixes.train_remedies import proven

        fixes = proven(source, spec, found, told)
    model = replace(model, fixes=fixes)
    if spec.save is not None:
        from gradscope.fixes.measure_remedies import save

        said = save(found, spec, model)
        model = replace(model, notes=(*model.notes, said))
        if model.probe is not None:
            model = replace(model, probe=replace(model.probe, notes=(*model.probe.notes, said)))
    return model


def _probed(source: Source, model: ModelResult, spec: RunSpec, told: Progress) -> ModelResult:
    from gradscope.probe.run_probe import probe_source

    return with_verdicts(replace(model, probe=probe_source(source, spec, told)), spec)

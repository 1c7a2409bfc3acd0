"""All that a run may ask of a model: its diagnosis, and what is trained or changed to prove it."""

from __future__ import annotations

from dataclasses import replace

from gradscope.loading.source import Source
from gradscope.loading.word import source_of
from gradscope.pipeline import Early, Progress, diagnose_sources
from gradscope.records import ModelResult, Report, RunSpec
from gradscope.rules.judge import judge, status


def examine(
    spec: RunSpec,
    *,
    compare: bool = False,
    detail: bool = True,
    progress: Progress | None = None,
    early: Early | None = None,
) -> Report:
    """Diagnose every model of `spec`, and probe it where that is asked for.

    Arguments as for `pipeline.diagnose`.

    Raises:
        UsageError: something asked for cannot be had.
    """
    sources = [source_of(word, spec) for word in spec.models]
    report = diagnose_sources(sources, spec, compare=compare, detail=detail, progress=progress, early=early)
    models = list(report.models)
    for place, source in enumerate(sources):
        if spec.probe:
            models[place] = _probed(source, models[place], spec, progress)
        if spec.fix:
            models[place] = _fixed(source, models[place], spec, progress)
    return replace(report, models=tuple(models))


def _fixed(source: Source, model: ModelResult, spec: RunSpec, progress: Progress | None) -> ModelResult:
    from gradscope.fixes.run import measure_fixes

    told = progress or (lambda label, done, total: None)
    found = measure_fixes(source, spec, told)
    fixes = tuple(one.record() for one in found)
    if spec.save is not None:
        from gradscope.fixes.save import save

        model = replace(model, notes=(*model.notes, save(found, spec)))
    if spec.probe:
        from gradscope.fixes.prove import proven

        fixes = proven(source, spec, found, told)
    return replace(model, fixes=fixes)


def _probed(source: Source, model: ModelResult, spec: RunSpec, progress: Progress | None) -> ModelResult:
    from gradscope.probe.run import probe_source

    outcome = probe_source(source, spec, progress or (lambda label, done, total: None))
    known = replace(model, probe=outcome)
    verdicts = judge(known, spec)
    return replace(known, verdicts=verdicts, status=status(verdicts))

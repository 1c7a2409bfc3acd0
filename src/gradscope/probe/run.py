"""A probe: copies of a model on a task, over learning rates and seeds, and a twin where none of them learned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from gradscope.config import parse_model
from gradscope.errors import UsageError
from gradscope.loading.source import Source
from gradscope.loading.word import source_of
from gradscope.pipeline import Progress
from gradscope.probe.copies import copies_of
from gradscope.probe.learners import Learners
from gradscope.probe.train import Curve, Plan, Setting, Training
from gradscope.records import RunSpec
from gradscope.registry import FAMILIES
from gradscope.rules.advice import gate_bias
from gradscope.sequences.tasks.data import BETTER, data_task, near_sighted
from gradscope.sequences.tasks.find import kind_of, task_of
from gradscope.sequences.tasks.task import Kind
from gradscope.trained import Probe, Twin
from gradscope.trained import Training as Run

RATES = (1e-3, 3e-3, 1e-2)
SEEDS = 2
CLIP = 1.0


def learned_by(
    source: Source, spec: RunSpec, told: Progress, *, goal: float | None = None, taught: Kind | None = None
) -> list[int | None]:
    """When each run of a probe of `source` learned the task of `spec`.

    Args:
        source: the model.
        spec: the settings.
        told: called as told(label, done, total).
        goal: error at which it counts as learned; None: the task's own.
        taught: the kind of lags that it is taught by, where it is another than the task's.
    """
    plan = _plan(source, spec)
    plan = replace(plan, taught=taught, task=plan.task if goal is None else replace(plan.task, goal=goal))
    training = _prepared(source, plan, _settings(spec), look=False)
    _run(training, f"training {source.name}", told)
    return [curve.learned_at for curve in training.curves]


def probe_source(source: Source, spec: RunSpec, told: Progress = lambda label, done, total: None) -> Probe:
    """Train copies of a model on `spec.task` at the needed lag.

    Ctrl-C ends the training, and what is known by then is returned as incomplete.

    Raises:
        UsageError: the task does not fit the model, or nothing in it can be trained.
    """
    plan, near, complete = _with_goal(source, _plan(source, spec), spec, told)
    task, training = plan.task, _prepared(source, plan, _settings(spec))
    complete = complete and _run(training, f"training {source.name} on {task.name}", told)
    twin, notes = None, _notes(source, training.learners)
    if complete and all(curve.learned_at is None for curve in training.curves):
        twin, complete = _twin(source.name, spec, plan, told)
    return Probe(
        task=task.name,
        summary=task.summary,
        lag=plan.lag,
        lags=plan.kind,
        train_steps=plan.steps,
        goal=task.goal,
        chance=task.chance,
        unit=task.unit,
        runs=tuple(_record(curve) for curve in training.curves),
        twin=twin,
        notes=notes,
        near=near,
        complete=complete,
    )


def _plan(source: Source, spec: RunSpec) -> Plan:
    """The task of a run, or what its own data ask for."""
    task = task_of(spec) if spec.task is not None else data_task(spec, source.input_size, source.ids)
    return Plan(task, spec.needs_lag or 1, kind_of(spec, task), spec.train_steps)


def _with_goal(source: Source, plan: Plan, spec: RunSpec, told: Progress) -> tuple[Plan, float | None, bool]:
    """The plan with the goal that own data set: what the same model comes to with the newest steps alone.

    Also that error, None for a task of the table, and whether it was measured to the end.
    """
    if not math.isnan(plan.task.goal):
        return plan, None, True
    near = replace(plan, task=near_sighted(plan.task, plan.lag))
    training = _prepared(source, near, _settings(spec), look=False)
    complete = _run(training, f"training {source.name} on the newest {plan.lag} steps alone", told)
    least = min(min(curve.errors, default=math.inf) for curve in training.curves)
    return replace(plan, task=replace(plan.task, goal=BETTER * least)), least, complete


def _settings(spec: RunSpec) -> list[Setting]:
    return [
        Setting(rate, seed, CLIP) for seed in range(spec.seed, spec.seed + max(SEEDS, spec.seeds)) for rate in RATES
    ]


def _prepared(source: Source, plan: Plan, settings: Sequence[Setting], *, look: bool = True) -> Training:
    task = plan.task
    if source.is_chain:
        raise UsageError(f"{source.name} is bare Jacobians: there is nothing to train; probe a model")
    if source.ids is not None and not task.symbols:
        raise UsageError(f"task '{task.name}' shows numbers, {source.name} takes token ids; use --task recall")
    width = source.input_size if source.input_size is not None else task.features
    if width == 0:
        raise UsageError(f"{source.name} takes no input, so there is nothing for it to remember; probe one that does")
    models = [source.make(width, setting.seed) for setting in settings]
    takes = None if source.input_size is None else width
    seeds = [setting.seed for setting in settings]
    learners = Learners(copies_of(models, source.name), task, seeds, takes=takes, as_ids=source.ids is not None)
    return Training(learners, plan, settings, look=look)


def _run(training: Training, label: str, told: Progress) -> bool:
    """Whether it came to its end."""
    before = torch.get_num_threads()
    # Steps of this size are worth no second thread.
    torch.set_num_threads(1)
    try:
        training.run(lambda done, of: told(label, done, of))
    except KeyboardInterrupt:
        return False
    finally:
        torch.set_num_threads(before)
    return True


def _twin(name: str, spec: RunSpec, plan: Plan, told: Progress) -> tuple[Twin, bool]:
    """An LSTM of the same width whose forget gates hold for the lag, by the same settings."""
    own = parse_model(name).options if name.partition(":")[0] in FAMILIES else {}
    hidden = own.get("hidden", str(spec.hidden))
    word = f"lstm:hidden={hidden},forget_bias={gate_bias(plan.lag):g}"
    source, complete = source_of(word, spec), True
    if spec.task is None:
        plan, _, complete = _with_goal(source, _plan(source, spec), spec, told)
    training = _prepared(source, plan, _settings(spec))
    complete = complete and _run(training, f"training the twin {word}", told)
    learned = [curve.learned_at for curve in training.curves if curve.learned_at is not None]
    return Twin(word, len(learned), len(training.curves), min(learned, default=None)), complete


def _notes(source: Source, learners: Learners) -> tuple[str, ...]:
    task = learners.task
    found = []
    if learners.has_front:
        found.append(f"{task.features} features enter through a linear layer that is trained along")
    if learners.as_ids:
        found.append("the task's symbols are its token ids; how far back the gradient reaches is not seen then")
    if not learners.has_readout:
        found.append(f"its own {task.outputs} outputs are read as the answer")
    if source.loaded.trained:
        found.append("training starts from the weights given")
    return tuple(found)


def _record(curve: Curve) -> Run:
    return Run(
        rate=curve.setting.rate,
        seed=curve.setting.seed,
        clip=curve.setting.clip,
        learned_at=curve.learned_at,
        trained=curve.trained,
        lost_at=curve.lost_at,
        clipped=curve.clipped,
        steps=tuple(curve.steps),
        errors=tuple(curve.errors),
        norms=tuple(curve.norms),
        sights=tuple(curve.sights),
    )

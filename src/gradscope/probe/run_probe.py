"""A probe: copies of a model on a task, over learning rates and seeds, and a twin where none of them learned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from gradscope.config import parse_model
from gradscope.errors import UsageError
from gradscope.loading.from_word import source_of
from gradscope.loading.source import Source
from gradscope.loading.user_module import has_own_head
from gradscope.pipeline import Progress
from gradscope.probe.copies import copies_of
from gradscope.probe.learners import Learners
from gradscope.probe.training import Curve, Plan, Setting, Training
from gradscope.records import RunSpec
from gradscope.registry import FAMILIES
from gradscope.rules.advice import gate_bias_for_lag
from gradscope.sequences.data_task import data_task, goal_of, near_sighted, one_hot_ids
from gradscope.sequences.tasks import LagKind, Task, kind_of, task_of
from gradscope.text import safe_text
from gradscope.trained import Probe, Twin
from gradscope.trained import Training as Run

RATES = (1e-3, 3e-3, 1e-2)
SEEDS = 2
CLIP = 1.0
MOST_IDS = 4096
"""Token ids up to which a twin reads them, one-hot."""


def learned_by(
    source: Source, spec: RunSpec, told: Progress, *, taught: LagKind | None = None, everywhere: bool = False
) -> list[int | None]:
    """When each run of a probe of `source` learned.

    Nothing where own data leave nothing to learn at that lag, or where every step is asked and the model answers once.

    Args:
        source: the model.
        spec: the settings.
        told: called as told(label, done, total).
        taught: the kind of lags that it is taught by, where it is another than the task's.
        everywhere: whether the loss asks for the answer at every step too.
    """
    aim = _aim(source, _plan(source, spec), spec, told)
    if aim.plan is None:
        return []
    training = _prepared(source, replace(aim.plan, taught=taught, everywhere=everywhere), _settings(spec), look=False)
    if everywhere and not training.learners.copies.has_steps:
        return []
    _run(training, f"training {source.name}", told)
    return [curve.learned_at for curve in training.curves]


def probe_source(source: Source, spec: RunSpec, told: Progress = lambda label, done, total: None) -> Probe:
    """Train copies of a model on `spec.task`, or on what its own data ask for, at the needed lag.

    Ctrl-C ends the training, and what is known by then is returned as incomplete.

    Raises:
        UsageError: the task does not fit the model, or nothing in it can be trained.
    """
    plan = _plan(source, spec)
    aim = _aim(source, plan, spec, told)
    if aim.plan is None:
        return replace(_outlined(plan), near=aim.near, complete=aim.complete)
    training = _prepared(source, aim.plan, _settings(spec))
    complete = _run(training, f"training {source.name} on {plan.task.name}", told)
    twin, notes = None, _notes(source, training.learners)
    if complete and all(curve.learned_at is None for curve in training.curves):
        twin, complete = _twin(source, spec, aim.plan, told)
    runs = tuple(_record(curve) for curve in training.curves)
    return replace(_outlined(aim.plan), runs=runs, twin=twin, notes=notes, near=aim.near, complete=complete)


def _outlined(plan: Plan) -> Probe:
    """What is known of a probe before anything is trained."""
    task = plan.task
    return Probe(
        task=task.name,
        summary=task.summary,
        lag=plan.lag,
        lags=plan.kind,
        train_steps=plan.steps,
        goal=0.0 if math.isnan(task.goal) else task.goal,
        chance=task.chance,
        unit=task.unit,
        runs=(),
    )


def _plan(source: Source, spec: RunSpec) -> Plan:
    """The task of a run, or what its own data ask for."""
    task = (
        task_of(spec)
        if spec.task is not None
        else data_task(spec, source.input_size, source.ids, is_backwards=source.is_backwards)
    )
    if spec.task is None and spec.target is not None and not task.values and source.input_size != 0:
        task = _of_own_outputs(source, task, spec)
    return Plan(task, spec.needs_lag or 1, kind_of(spec, task), spec.train_steps)


def _of_own_outputs(source: Source, task: Task, spec: RunSpec) -> Task:
    """Classes as the outputs of a user's module count them: the data at hand may hold fewer.

    Raises:
        UsageError: a class that no output stands for.
    """
    model = source.make(source.input_size or task.features, spec.seed)
    if not has_own_head(model):
        return task
    outputs = copies_of([model], source.name).output_size
    if outputs >= task.outputs:
        return replace(task, outputs=outputs)
    if (outputs, task.outputs) == (1, 2):
        return task
    held = f"--target '{safe_text(spec.target)}' has class {task.outputs - 1}"
    raise UsageError(
        f"{held}, {source.name} has {outputs} output{'s' * (outputs > 1)}; give it {task.outputs}, or classes from 0 "
        f"to {max(outputs, 2) - 1}"
    )


@dataclass(frozen=True)
class Aim:
    """What a training has to come to."""

    plan: Plan | None
    """With its goal; None where there is none: interrupted, or the newest steps of own data tell it all."""
    near: float | None = None
    """The least error of the same model with the newest steps of own data alone."""
    complete: bool = True


def _aim(source: Source, plan: Plan, spec: RunSpec, told: Progress) -> Aim:
    """The plan itself, or with the goal that own data set: better than the same model with the newest steps alone.

    Raises:
        UsageError: no training on the newest steps stayed finite.
    """
    task = plan.task
    if not math.isnan(task.goal):
        return Aim(plan)
    training = _prepared(source, replace(plan, task=near_sighted(task, plan.lag)), _settings(spec), look=False)
    if not _run(training, f"training {source.name} on the newest {plan.lag} steps alone", told):
        return Aim(None, complete=False)
    near = min((e for curve in training.curves for e in curve.errors if math.isfinite(e)), default=None)
    if near is None:
        raise UsageError(f"no training on {task.name} stayed finite; scale the data, --scale standard")
    goal = goal_of(near, task.chance)
    return Aim(None if goal is None else replace(plan, task=replace(task, goal=goal)), near)


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


def _twin(source: Source, spec: RunSpec, plan: Plan, told: Progress) -> tuple[Twin | None, bool]:
    """An LSTM of the same width whose forget gates hold for the lag, by the same settings; none of too many ids."""
    own = parse_model(source.name).options if source.name.partition(":")[0] in FAMILIES else {}
    hidden = own.get("hidden", str(spec.hidden))
    word = f"lstm:hidden={hidden},forget_bias={gate_bias_for_lag(plan.lag):g}"
    twin, aim = source_of(word, spec), Aim(plan)
    if spec.task is None:
        if source.ids is not None and source.ids.size > MOST_IDS:
            return None, True
        task = replace(plan.task, goal=math.nan)
        task = task if source.ids is None else one_hot_ids(task, source.ids.size)
        aim = _aim(twin, replace(plan, task=task), spec, told)
    if aim.plan is None:
        return None, aim.complete
    training = _prepared(twin, aim.plan, _settings(spec))
    complete = _run(training, f"training the twin {word}", told)
    learned = [curve.learned_at for curve in training.curves if curve.learned_at is not None]
    return Twin(word, len(learned), len(training.curves), min(learned, default=None)), complete


def _notes(source: Source, learners: Learners) -> tuple[str, ...]:
    task = learners.task
    found = [*task.notes]
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

"""One combination, trained: what could be known of it before, and what became of it."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from benchmarks.detector.catalogue import CLIP, HIDDEN, LOOK, RATES, SEEDS, STEPS, Combination
from gradscope.fixes.layer_edit import changed
from gradscope.models.family import family_model
from gradscope.models.stack import Recurrent
from gradscope.models.whole_module import WholeModule
from gradscope.probe.copies import copies_of
from gradscope.probe.learners import Learners, flow
from gradscope.probe.training import Curve, Plan, Setting, Training
from gradscope.registry import TASKS, load

LAGS_KEPT = (0, 1, 2, 5, 10, 20, 50, 100, 200)


def outcome(combination: Combination, clips: Sequence[float | None] = (CLIP,)) -> dict[str, Any]:
    """Train every setting; a seed counts as learned when one of its clipped settings learns, `learned_free` of others.

    Args:
        combination: what is trained.
        clips: largest norms of the gradient; None leaves it as it is.
    """
    begun, task = time.perf_counter(), load(TASKS[combination.task])
    settings = [Setting(rate, seed, clip) for seed in SEEDS for clip in clips for rate in RATES]
    models = [built(combination.model, one.seed, task.features) for one in settings]
    copies = copies_of(models, combination.model)
    learners = Learners(copies, task, [one.seed for one in settings], takes=None, as_ids=False)
    plan = Plan(task, combination.lag, combination.kind, STEPS)
    training = Training(learners, plan, settings, one_is_enough=True)
    firsts = [settings.index(Setting(RATES[0], seed, clips[0])) for seed in SEEDS]
    before = [_before(learners, training, run, models[run], combination.lag) for run in firsts]
    curves = training.run()
    seeds = []
    for place, seed in enumerate(SEEDS):
        own = [curve for curve in curves if curve.setting.seed == seed and curve.setting.clip is not None]
        free = [curve for curve in curves if curve.setting.seed == seed and curve.setting.clip is None]
        seeds.append({"seed": seed, **_came_of(own), **_without_clipping(free), **before[place]})
    taken = max(curve.trained for curve in curves)
    return _plain({**combination.record(), "steps": taken, "seconds": time.perf_counter() - begun, "seeds": seeds})


def _came_of(curves: Sequence[Curve]) -> dict[str, Any]:
    after = [one for curve in curves for one in curve.sights if one.step == LOOK]
    return {
        "learned_at": _first(curves),
        "error": min(min(curve.errors) for curve in curves),
        "share_after": max((one.gradient_share for one in after), default=None),
        "error_after": min((c.errors[c.steps.index(LOOK)] for c in curves if LOOK in c.steps), default=None),
        "lost": sum(curve.lost_at is not None for curve in curves),
    }


def _without_clipping(curves: Sequence[Curve]) -> dict[str, Any]:
    if not curves:
        return {}
    return {"learned_free": _first(curves), "lost_free": sum(curve.lost_at is not None for curve in curves)}


def _first(curves: Sequence[Curve]) -> int | None:
    return min((curve.learned_at for curve in curves if curve.learned_at is not None), default=None)


def built(text: str, seed: int, features: int) -> Any:
    """The model of a word: a family with options, or `torchrecurrent:CELL,recurrent=orthogonal`."""
    name, _, options = text.partition(":")
    if name == "torchrecurrent":
        return foreign_cell(text, options, seed, features)
    given = dict(part.split("=") for part in options.split(",")) if options else {}
    settled = family_model(name, given, text, {"hidden": HIDDEN})
    return settled.build(input_size=features, seed=seed, dtype=torch.float64)


def foreign_cell(text: str, options: str, seed: int, features: int) -> WholeModule:
    """A layer of torchrecurrent by its own initialisation, with an orthogonal recurrent matrix, or gates that keep.

    `keep=B` sets the gate that keeps the state by the biases that are found in the computation.
    """
    cell, *drawn = options.split(",")
    given = {"recurrent_kernel_init": nn.init.orthogonal_} if "recurrent=orthogonal" in drawn else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = getattr(importlib.import_module("torchrecurrent"), cell)(features, HIDDEN, **given)
    model = WholeModule(text, module.double(), features, kind="module", time_first=True)
    for bias in (float(one.removeprefix("keep=")) for one in drawn if one.startswith("keep=")):
        kept = changed(model, lambda layer, bias=bias: layer.keep(bias, ""), torch.ones(1, 12, features).double())
        assert kept is not None, f"{cell} has no gate that keeps its state"
        model = kept.model
    return model


def _before(learners: Learners, training: Training, run: int, model: Any, lag: int) -> dict[str, Any]:
    """What can be measured at initialisation: the share and its rivals."""
    seen = flow(learners, training.watched, [run])
    profile, whole = seen.arithmetic[0], float(seen.whole[0])
    geometric = seen.geometric[0]
    x, target = training.watched.x[None], training.watched.target[None]
    loss = learners.task.loss(learners.read(x, [run]), target).sum()
    leaves = learners.leaves(run)
    grads = torch.autograd.grad(loss, leaves, allow_unused=True)
    own = [grad for grad in grads if grad is not None]
    return {
        "share": float(profile[lag]) - whole,
        "shares": {str(k): float(profile[k]) - whole for k in LAGS_KEPT if k <= lag},
        "rate": float(geometric[lag] - geometric[1]) / max(lag - 1, 1) * math.log(10),
        "reach": int((geometric[1:] >= geometric[1] - 2).nonzero().max()) + 1 if bool(geometric[1] > -math.inf) else 0,
        "ratio": float(geometric[lag] - geometric[0]),
        "loss": float(loss.detach()),
        "chance": learners.task.chance,
        "parameter_norm": float(nn.utils.get_total_norm(own)),
        "layer_ratio": float(own[0].norm() / own[-2].norm().clamp_min(1e-38)) if len(own) > 1 else 1.0,
        **_recurrent(model, training.watched.x[:1]),
    }


def _recurrent(model: Any, x: torch.Tensor) -> dict[str, float]:
    """Spectral radius of the recurrent matrix and the largest norm of one Jacobian; nothing without a state."""
    if not isinstance(model, Recurrent):
        return {}
    dense = model.run(x.double()).dense(0, x.shape[1])[0]
    norms = torch.linalg.matrix_norm(dense, 2)
    radius = torch.linalg.eigvals(dense[-1]).abs().max()
    return {"radius": float(radius), "largest_jacobian": float(norms.max()), "smallest_jacobian": float(norms.min())}


def _plain(value: Any) -> Any:
    """JSON has no infinities."""
    if isinstance(value, float) and not math.isfinite(value):
        return {math.inf: "inf", -math.inf: "-inf"}.get(value, "nan")
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list) else value

"""Run the rules of training over a trajectory."""

from __future__ import annotations

from dataclasses import replace

from gradscope.records import RunSpec, Status, Verdict
from gradscope.registry import RULES, TRAINING_RULES, load
from gradscope.rules.judge import is_chosen
from gradscope.rules.training.rule import TrainingRule, stated_lag
from gradscope.trajectory import Trajectory, leading
from gradscope.verdicts import gravest


def judged(trajectory: Trajectory, spec: RunSpec) -> Trajectory:
    """The same with one verdict for every selected rule of training; `spec` holds what the user asked for now."""
    rules = [load(reference) for code, reference in TRAINING_RULES.items() if is_chosen(code, spec)]
    return replace(trajectory, verdicts=tuple(_verdict(rule, trajectory, spec) for rule in rules))


def for_reports(spec: RunSpec) -> RunSpec:
    """`spec` with the words about rules of single reports alone: what each point of a trajectory is judged by."""

    def known(prefixes: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(prefix for prefix in prefixes if any(code.startswith(prefix.upper()) for code in RULES))

    return replace(spec, select=known(spec.select), ignore=known(spec.ignore))


def status_of(trajectory: Trajectory) -> Status:
    """One word for a run: the gravest that a finding gives it, else how it ended."""
    named = gravest(verdict.gives for verdict in trajectory.verdicts if verdict.status in ("fail", "warn"))
    lead = leading(trajectory)
    one = lead[-1].layer if lead and lead[-1].kind == "signal" else None
    known = [point.status for point in trajectory.points if point.status is not None and one in (None, point.layer)]
    last = known[-1] if known else None
    return named or last or "inconclusive"


def _verdict(rule: TrainingRule, trajectory: Trajectory, spec: RunSpec) -> Verdict:
    finding = rule.judge(trajectory, spec)
    verdict = rule.verdict(finding, lag_stated=stated_lag(trajectory, spec) is not None)
    return replace(verdict, gives=rule.gives if finding.outcome == "found" else None)

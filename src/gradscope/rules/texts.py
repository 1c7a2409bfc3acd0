"""What a rule teaches, as markdown: what it finds, the maths, how it is measured, limits, remedies, papers."""

from __future__ import annotations

from collections.abc import Mapping

from gradscope.records import Severity
from gradscope.registry import GATE_RULES, RULES, TRAINING_RULES, load, resolve
from gradscope.rules.gs9_gate import GateRule
from gradscope.rules.rule import Rule, TrainingRule

EVERY: Mapping[str, str] = {**RULES, **TRAINING_RULES, **GATE_RULES}
"""Every code that there is, in order."""


def explain(code: str) -> str:
    """The lesson of one rule, as markdown.

    Raises:
        UsageError: no rule has this code; the message names the nearest one.
    """
    rule: Rule | TrainingRule | GateRule = resolve(EVERY, code.strip().upper(), "rule")
    parts = _gate_lesson(rule) if isinstance(rule, GateRule) else _lesson(rule)
    return "\n\n".join(parts) + "\n"


def _gate_lesson(rule: GateRule) -> list[str]:
    return [
        f"# {rule.code} {rule.title} ({rule.severity})",
        rule.what,
        "## How it is judged",
        rule.how,
        "## What decides",
        rule.setting,
        "## What to try",
        _bullets(rule.remedies),
    ]


def _lesson(rule: Rule | TrainingRule) -> list[str]:
    return [
        f"# {rule.code} {rule.title} ({_force(rule)})",
        rule.what,
        "## The maths",
        "\n".join(f"    {line}" for line in rule.maths),
        "## How it is measured",
        rule.measured,
        "## Threshold",
        _thresholds(rule),
        "## What to try",
        _bullets(rule.remedies),
        "These are the usual remedies, not measurements on your model: run the command and see.",
        "## Read more",
        _bullets(rule.papers),
    ]


def explain_all() -> list[tuple[str, Severity, str]]:
    """(code, severity, title) of every rule, in order."""
    rules: list[Rule | TrainingRule | GateRule] = [load(reference) for reference in EVERY.values()]
    return [(rule.code, rule.severity, rule.title) for rule in rules]


def _force(rule: Rule | TrainingRule) -> str:
    """How hard a finding counts."""
    if rule.needs_stated_lag:
        return "error with --needs-lag, warning without"
    return rule.severity


def _thresholds(rule: Rule | TrainingRule) -> str:
    """Names, defaults and meanings, and how to change them."""
    if not rule.thresholds:
        return f"None: any one is a finding. `--ignore {rule.code}` turns the rule off."
    lines = [f"`{name} = {limit.default:g}` ({limit.unit}): {limit.meaning}" for name, limit in rule.thresholds.items()]
    name, limit = next(iter(rule.thresholds.items()))
    setting = f"{name} = {limit.default:g}"
    return (
        f"{_bullets(lines)}\n\n"
        f"To change it for one run: `--threshold {name}={limit.default:g}`. For a project, in `gradscope.toml` "
        f"(in `pyproject.toml` the table is `[tool.gradscope.thresholds]`):\n\n"
        f"    [thresholds]\n    {setting}\n\n"
        f"`--ignore {rule.code}` turns the rule off."
    )


def _bullets(lines: tuple[str, ...] | list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)

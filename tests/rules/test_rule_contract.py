"""What every rule in the table must be, so that a new one is tested before its author writes a test."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import replace

import pytest

from gradscope.models.family import family_model
from gradscope.records import NonFinite, RunSpec, Severity, Summary, VerdictStatus
from gradscope.registry import FAMILIES, GATE_RULES, RULES, TRAINING_RULES, load
from gradscope.rules.judge import judge
from gradscope.rules.rule import Rule
from gradscope.rules.texts import explain, explain_all
from gradscope.verdicts import GRAVEST_FIRST
from rules.conftest import probed

STATED = RunSpec(needs_lag=199)
STRADDLES_LOW, STRADDLES_HIGH = {"rate": -0.03, "rate_ci": (-0.05, -0.01)}, {"rate": 0.03, "rate_ci": (0.01, 0.05)}
CHAOTIC = {"lyapunov": (0.1, -0.2), "lyapunov_ci": (0.05, 0.15)}

# Every outcome of every rule (with a stated lag), and what brings it about. A rule without a line here fails below.
REACHABLE: dict[str, dict[VerdictStatus, dict[str, object]]] = {
    "GS101": {
        "pass": {},
        "fail": {"rate": -0.59, "rate_ci": (-0.61, -0.57), "reach": 9},
        "inconclusive": STRADDLES_LOW,
        "skip": {"rate": None},
    },
    "GS102": {"pass": {}, "fail": {"zero_lags": (20, 180)}, "skip": {"zero_lags": None}},
    "GS103": {"pass": {}, "warn": {"directions": 1}, "skip": {"directions": None}},
    "GS104": {"pass": {}, "fail": {"reach": 9}, "skip": {"reach": None}},
    "GS105": {
        "pass": {},
        "fail": {"probe": probed(None, None, twin=6)},
        "inconclusive": {"probe": probed(None, None, twin=0)},
        "skip": {"needed_lag": None},
    },
    "GS201": {
        "pass": {},
        "fail": {"rate": 0.1, "rate_ci": (0.09, 0.11)},
        "inconclusive": STRADDLES_HIGH,
        "skip": {"rate": None},
    },
    "GS202": {
        "pass": {},
        "warn": CHAOTIC,
        "inconclusive": CHAOTIC | {"lyapunov_ci": (-0.05, 0.25)},
        "skip": {"lyapunov": None},
    },
    "GS203": {
        "pass": {"parameter_sensitivity": 1.2},
        "warn": {"parameter_sensitivity": 3.5},
        "skip": {"parameter_sensitivity": None},
    },
    "GS204": {"pass": {"output_scale": 0.2}, "warn": {"output_scale": 40.0}, "skip": {"output_scale": None}},
    "GS301": {"pass": {}, "fail": {"non_finite": NonFinite(17, "l0", "gate.forget", "nan")}},
    "GS302": {
        "pass": {},
        "warn": {"precision_horizon": {"float32": {"lag": 30, "share": 30}}},
        "skip": {"precision_horizon": None},
    },
    "GS303": {"pass": {}, "warn": {"saturation": {"activation": 0.63}}, "skip": {"saturation": None}},
    "GS304": {
        "pass": {"saturation": {"activation.dead": 0.1}},
        "warn": {"saturation": {"activation.dead": 0.63}},
        "skip": {"saturation": None},
    },
    "GS305": {"pass": {"gate_bias": (1.0, 1.1)}, "warn": {"gate_bias": (3.0, 0.1)}, "skip": {"gate_bias": None}},
    "GS401": {"pass": {}, "fail": {"cut": 120}},
    "GS402": {"pass": {"silent": ()}, "warn": {"silent": ("head.bias",)}, "skip": {"silent": None}},
    "GS403": {"pass": {}, "fail": {"mixed": (3, 8)}},
    "GS405": {"pass": {"unheard": ()}, "fail": {"unheard": ("the input", "pre.weight")}, "skip": {"unheard": None}},
}
OUTCOMES = [(code, status, changed) for code in RULES for status, changed in REACHABLE.get(code, {}).items()]


@pytest.fixture(params=list(RULES))
def rule(request) -> Rule:
    return load(RULES[request.param])


def verdict(code, result, spec=STATED):
    (found,) = judge(result, replace(spec, select=(code,)))
    return found


def test_codes_match_their_keys_and_are_in_order():
    assert [load(reference).code for reference in RULES.values()] == list(RULES) == sorted(RULES)


def test_a_rule_is_complete(rule):
    assert re.fullmatch(r"GS[1-5]\d\d", rule.code)
    assert rule.title
    assert rule.page.papers
    meaning, maths, measured, remedies = rule.page.sections.values()
    assert meaning[-1].endswith(".")
    assert measured[-1].endswith(".")
    (formulas,) = maths
    assert len(formulas.splitlines()) == 3
    assert all(line.startswith("    ") for line in formulas.splitlines())
    assert all(line.startswith("- ") for line in "\n".join(remedies).splitlines())


def test_a_rule_requires_values_that_summaries_have(rule):
    assert rule.requires
    assert set(rule.requires) <= set(Summary.__dataclass_fields__)


def test_thresholds_have_meanings_valid_defaults_and_names_of_their_own():
    names = [name for reference in RULES.values() for name in load(reference).thresholds]
    assert len(names) == len(set(names))
    for reference in RULES.values():
        for name, limit in load(reference).thresholds.items():
            limit.check(name, limit.default)
            assert limit.unit
            assert limit.meaning


def test_published_defaults():
    defaults = {name: t.default for reference in RULES.values() for name, t in load(reference).thresholds.items()}
    published = {
        "vanishing_share": 0.01,
        "zero_lags": 0.0,
        "collapsed_directions": 1.0,
        "reach_part": 1.0,
        "exploding_factor": 1000.0,
        "chaos_factor": 1000.0,
        "saturated_share": 0.5,
        "dead_share": 0.5,
    }
    assert {name: defaults[name] for name in published} == published


def test_every_rule_has_its_reachable_outcomes():
    assert set(RULES) <= set(REACHABLE)


@pytest.mark.parametrize(("code", "status", "changed"), OUTCOMES, ids=[f"{code}-{said}" for code, said, _ in OUTCOMES])
def test_every_outcome_can_be_reached(made, code, status, changed):
    found = verdict(code, made(**changed))
    assert (found.code, found.status) == (code, status)
    assert found.message.endswith(".") or status == "skip"
    assert "{" not in found.message + found.advice
    assert bool(found.advice) == (status in ("fail", "warn", "inconclusive"))


def test_a_rule_skips_with_the_reason_given_when_its_value_is_absent(rule, made):
    absent = dict.fromkeys(rule.requires)
    found = verdict(rule.code, made(skipped=dict.fromkeys(rule.requires, "not enough memory"), **absent))
    assert found.status == "skip"
    assert "not enough memory" in found.message


def test_a_finding_never_outranks_the_severity_of_its_rule(rule, made):
    for status, changed in REACHABLE[rule.code].items():
        found = verdict(rule.code, made(**changed))
        assert found.severity == rule.severity
        assert (status == "fail") <= (rule.severity == "error")
        assert (status == "warn") <= (rule.severity == "warning")


def test_explain_teaches_everything_the_rule_holds(rule):
    lesson = explain(rule.code)
    for part in (rule.code, rule.title, *sum(rule.page.sections.values(), ()), *rule.page.papers):
        assert part in lesson
    for name, limit in rule.thresholds.items():
        assert f"`{name} = {limit.default:g}`" in lesson
        assert limit.meaning in lesson
    assert f"--ignore {rule.code}" in lesson


def test_the_table_of_rules():
    rows: list[tuple[str, Severity, str]] = explain_all()
    assert [code for code, _, _ in rows] == [*RULES, *TRAINING_RULES, *GATE_RULES]
    errors = {code for code, severity, _ in rows if severity == "error" and code in RULES}
    assert errors == {"GS101", "GS102", "GS104", "GS105", "GS201", "GS301", "GS401", "GS403", "GS405"}


def commands(text):
    return re.findall(r"`gradscope ([^`]+)`", text)


def test_commands_in_remedies_name_models_that_exist(rule):
    for words in map(shlex.split, commands("\n".join(rule.page.sections["What to try"]))):
        assert words[0] in ("analyze", "compare", "probe")
        models = [word for word in words[1:] if word.partition(":")[0] in FAMILIES]
        assert models or ".py:" in words[1]
        for model in models:
            name, _, options = model.partition(":")
            given = dict(part.split("=") for part in options.split(",")) if options else {}
            family_model(name, given, model, {})


def test_rules_import_neither_torch_nor_numpy():
    program = (
        "import sys; from gradscope.rules import judge, texts; texts.explain_all(); "
        "print([name for name in ('torch', 'numpy', 'rich', 'typer') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("code", "status"), [(code, status) for code, status, _ in OUTCOMES])
def test_a_finding_names_the_status_that_its_rule_gives(code, status, made):
    rule, changed = load(RULES[code]), REACHABLE[code][status]
    assert rule.status_if_found is None or rule.status_if_found in GRAVEST_FIRST
    assert set(rule.implied_by) <= set(RULES)
    said = verdict(code, made(**changed))
    assert said.gives == (rule.status_if_found if said.status in ("fail", "warn") else None)

"""The gate at its defaults: quiet on six harmless changes, loud on every planted fault, with and without a baseline."""

from __future__ import annotations

from pathlib import Path

import pytest

import gradscope
from gradscope.gate.baseline import entry_of
from gradscope.gate.compare import judge_against
from gradscope.records import Limits, Report
from gradscope.verdicts import fails

NETS = Path(__file__).parent / "nets.py"
ASKED = {
    "Encoder": {"length": 60, "needs_lag": 40},
    "Decoder": {"length": 60, "needs_lag": 30},
    "Tagger": {"length": 60},
}
HARMLESS = ["EncoderOtherDraw", "EncoderGelu", "EncoderWider", "DecoderWider", "DecoderDropout", "TaggerOtherDraw"]
FAULTS = {
    "EncoderNoInit": "GS101",
    "EncoderCutBefore": "GS405",
    "EncoderScale": "GS405",
    "EncoderAxis": "GS403",
    "DecoderDetach": "GS401",
    "DecoderReset": "GS102",
    "DecoderNoBias": "GS101",
    "TaggerCutBefore": "GS405",
}
MOVED = {
    "EncoderNoInit": "With it went the mean forget gate from 0.98 to 0.50.",
    "DecoderNoBias": "With it went the mean update gate from 0.98 to 0.51.",
}


@pytest.fixture(scope="module")
def reports() -> dict[str, Report]:
    """One gate for each model and its variants, with nothing set but length and lag."""
    return {
        base: gradscope.check(
            *[f"{NETS}:{name}" for name in (base, *HARMLESS, *FAULTS) if name.startswith(base)], **asked
        )
        for base, asked in ASKED.items()
    }


def verdicts(reports: dict[str, Report], name: str):
    """What the gate finds of a variant alone, and against the model before the change."""
    report = reports[next(base for base in ASKED if name.startswith(base))]
    found = next(model for model in report.models if model.name.endswith(f":{name}"))
    against = judge_against(found, entry_of({}, report.models[0], report.environment), Limits())
    return found.verdicts, against.verdicts


@pytest.mark.parametrize("name", [*ASKED, *HARMLESS])
def test_a_harmless_change_is_green(reports, name):
    alone, against = verdicts(reports, name)
    assert not [v.message for v in alone if v.status == "fail"]
    assert not fails(against, "error"), against[-1].message


@pytest.mark.parametrize(("name", "code"), FAULTS.items())
def test_a_fault_is_red_with_its_name(reports, name, code):
    alone, against = verdicts(reports, name)
    assert code in {v.code for v in alone if v.status == "fail"}
    assert (against[-1].code, against[-1].status) == ("GS903", "fail")
    assert MOVED.get(name, "") in against[-1].message

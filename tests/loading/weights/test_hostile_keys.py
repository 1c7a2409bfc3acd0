"""Keys of a file that try to reach the screen as more than text, through a whole run and every format."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
import torch
from torch import nn

from gradscope.errors import UsageError
from gradscope.pipeline import diagnose
from gradscope.records import Report, RunSpec
from gradscope.registry import RENDERERS, load
from gradscope.renderers.shown import mimebundle
from gradscope.renderers.view import View
from renderers.reports import HOSTILE


def saved(folder: Path, *names: str) -> str:
    torch.manual_seed(0)
    weights = nn.RNN(2, 3).state_dict()
    torch.save({f"{name}.{key}": value for name in names for key, value in weights.items()}, folder / "w.pt")
    return str(folder / "w.pt")


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[Report]:
    paths = [saved(tmp_path_factory.mktemp("w"), name) for name in HOSTILE]
    return [diagnose(RunSpec(models=(path,), length=6, batch=1)) for path in paths]


def unsafe(text: str) -> set[str]:
    return {char for char in text if unicodedata.category(char) in {"Cc", "Cf", "Cs"} and char != "\n"}


@pytest.mark.parametrize("style", RENDERERS)
def test_no_key_reaches_a_format_as_control(style: str, reports: list[Report]) -> None:
    # Pages and pictures look alike whatever the terminal is.
    drawn = style in ("html", "svg", "png")
    if drawn:
        pytest.importorskip("vl_convert", reason="the extra [report] is not installed")
    views = (View(),) if drawn else (View(), View(width=50, verbose=2), View(ascii=True))
    for report in reports:
        for view in views:
            content = load(RENDERERS[style])(report, view)
            # What a picture is made of is drawn, and a page's own script may hold tabs.
            assert isinstance(content, bytes) or unsafe(content) - ({"\t"} if style == "html" else set()) == set()


def test_no_key_becomes_markup_of_a_page(reports: list[Report]) -> None:
    for report in reports:
        assert "<script" not in mimebundle(report)["text/html"]


def test_the_record_holds_escapes_already(reports: list[Report]) -> None:
    for report in reports:
        loaded = report.models[0].loaded
        assert unsafe(loaded.source + "".join(loaded.assumed)) == set()


def test_lists_of_keys_in_errors_are_one_safe_line(tmp_path: Path) -> None:
    path = saved(tmp_path, *HOSTILE)
    for settings in ({}, {"key": "no\x1b[31m"}, {"cell": "tanh-concat"}):
        with pytest.raises(UsageError) as caught:
            diagnose(RunSpec(models=(path,), **settings))
        assert unsafe(str(caught.value)) == set()
        assert "\n" not in str(caught.value)

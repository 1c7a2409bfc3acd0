"""Pages in a real browser: they open, ask for nothing, answer the pointer, and let nothing foreign run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from browser import colours, launched, opened
from gradscope.records import Fix, Loaded, Report, RunSpec
from gradscope.renderers.view import View
from gradscope.saved import read_report
from renderers import reports

pytest.importorskip("altair", reason="the extra [report] is not installed")
pytest.importorskip("vl_convert", reason="the extra [report] is not installed")
from gradscope.renderers import html_page
from gradscope.renderers.html_page import render
from gradscope.rules.judge import trajectory_with_verdicts
from trajectories import eventful

PAYLOADS = (
    "<img src=x onerror=window.hacked=1>",
    "</script><script>window.hacked=2</script>",
    '"><svg onload=window.hacked=3>',
    "{{ 7*7 }}{% raw %}",
    "javascript:window.hacked=4",
    "datum['x']+warn('hacked')",
)
CUT = """() => [...document.querySelectorAll(".drawn")].flatMap((box) => {
    const room = box.getBoundingClientRect();
    const shown = [...box.querySelectorAll("svg text")].filter((text) => getComputedStyle(text).opacity > 0);
    return shown.filter((text) => {
        const r = text.getBoundingClientRect();
        const across = r.left < room.left - 3 || r.right > room.right + 3;
        return r.width && (across || r.top < room.top - 3 || r.bottom > room.bottom + 3);
    }).map((text) => `${box.id}: ${text.textContent}`);
})"""
"""Words of charts that stick out of their place."""
OVERLAP = """() => [...document.querySelectorAll(".drawn svg .role-axis-label")].flatMap((axis) => {
    const level = (text) => getComputedStyle(text).opacity > 0 && !text.getAttribute("transform").includes("rotate");
    const boxes = [...axis.querySelectorAll("text")].filter(level).map((text) => text.getBoundingClientRect());
    const across = (a, b) => a.left < b.right - 1 && b.left < a.right - 1;
    const over = (a, b) => across(a, b) && a.top < b.bottom - 3 && b.top < a.bottom - 3;
    const seen = boxes.filter((box) => box.width);
    const hidden = seen.slice(1).filter((box, i) => over(box, seen[i]));
    return hidden.map((box) => `${axis.closest(".drawn").id} ${box.left}`);
})"""
"""Labels of an axis that lie over each other."""
PATHS = "[...document.querySelectorAll('.drawn')].map((drawn) => drawn.querySelectorAll('path').length)"


@pytest.fixture(scope="module")
def browser():
    yield from launched()


def written(folder: Path, report: Report, **view) -> Path:
    path = folder / "page.html"
    path.write_text(render(report, View(**view)), encoding="utf-8")
    return path


def odd_long(length: int = 10_000) -> Report:
    """Ten thousand steps, of which one is NaN, one Inf and one exactly zero."""
    model = reports.healthy(length)
    gradient = list(model.series.values["log10_grad_input"])
    gradient[1233], gradient[4566], gradient[7788] = math.nan, math.inf, -math.inf
    values = {**model.series.values, "log10_grad_input": tuple(gradient)}
    return reports.report(replace(model, series=replace(model.series, values=values)))


@pytest.mark.parametrize("name", ["compare of everything", "compare text", "check"])
def test_a_page_opens_without_a_word_or_a_request(browser, name, tmp_path):
    path = written(tmp_path, reports.catalogue()[name])
    with opened(browser, path, 400) as found:
        for width in (400, 1000, 1600):
            found.page.set_viewport_size({"width": width, "height": 800})
            found.page.wait_for_timeout(300)
            assert found.page.evaluate("document.documentElement.scrollWidth") <= width
            assert found.page.evaluate(CUT) == []
            assert found.page.evaluate(OVERLAP) == []
            assert min(found.page.evaluate(PATHS)) > 2
            assert colours(browser, found.page.screenshot()) > 30
        assert found.said == []
        assert found.asked == [path.as_uri()]


def test_the_page_of_a_training_run_opens_in_the_same_way(browser, tmp_path):
    path = tmp_path / "run.html"
    path.write_text(html_page.render_run(trajectory_with_verdicts(eventful(), RunSpec()), View()), encoding="utf-8")
    with opened(browser, path, 400) as found:
        for width in (400, 1600):
            found.page.set_viewport_size({"width": width, "height": 800})
            found.page.wait_for_timeout(300)
            assert found.page.evaluate("document.documentElement.scrollWidth") <= width
            assert found.page.evaluate(CUT) == []
            assert colours(browser, found.page.screenshot()) > 20
        assert found.page.locator("#lags-0 svg, #lags-0 canvas").count() > 0
        assert found.said == []
        assert found.asked == [path.as_uri()]


def test_the_pointer_shows_the_same_step_in_every_chart(browser, tmp_path):
    with opened(browser, written(tmp_path, reports.catalogue()["compare"])) as found:
        box = found.page.locator("#gradients-0")
        box.scroll_into_view_if_needed()
        place = box.bounding_box()
        found.page.mouse.move(place["x"] + place["width"] / 2, place["y"] + 80)
        over_steps = found.page.locator("#gradients-0 + .readout").text_content()
        step = int(over_steps.split()[1])
        assert 80 < step < 110
        assert f"(lag {200 - step})" in over_steps
        assert "rnn " in over_steps
        over_lags = found.page.locator("#profile-0 + .readout").text_content()
        assert over_lags.startswith(f"lag {200 - step} (step {step}): rnn ")
        value = float(over_lags.split("rnn ")[1].split(";")[0])
        assert math.log10(value) == pytest.approx(-0.2593 * (199 - step), abs=0.3)
        assert found.page.locator(".cursor:visible").count() > 3


def test_arrow_keys_tables_and_the_theme_answer(browser, tmp_path):
    with opened(browser, written(tmp_path, reports.catalogue()["ten steps"]), color_scheme="dark") as found:
        found.page.locator("#gradients-0").focus()
        for _ in range(3):
            found.page.keyboard.press("ArrowLeft")
        assert found.page.locator("#gradients-0 + .readout").text_content().startswith("step 7 (lag 3): ")
        assert found.page.locator("#gradients-0").get_attribute("aria-label").startswith("Norm of the loss's gradient")
        sorts_by_size_and_not_by_letters(found.page.locator("#steps table").first)
        paper = lambda: found.page.evaluate("getComputedStyle(document.body).backgroundColor")  # noqa: E731
        dark = paper()
        found.page.locator("#theme").click()
        assert (dark, paper()) == ("rgb(15, 20, 25)", "rgb(255, 255, 255)")
        found.page.emulate_media(media="print")
        assert found.page.evaluate("getComputedStyle(document.querySelector('.bar')).display") == "none"
        assert found.said == []


def sorts_by_size_and_not_by_letters(table):
    lags = lambda: [int(text) for text in table.locator("tbody tr td:nth-child(2)").all_text_contents()]  # noqa: E731
    assert lags() == list(range(10, -1, -1))
    table.locator("th button", has_text="lag").click()
    assert lags() == list(range(11))
    table.locator("th button", has_text="‖dL/dx‖").click()
    assert lags()[:-1] == list(range(9, -1, -1))
    table.locator("th button", has_text="‖dL/dx‖").click()
    assert lags()[1:] == list(range(10))
    assert table.locator("th[aria-sort=descending]").count() == 1


def test_what_foreigners_wrote_is_shown_and_never_run(browser, tmp_path):
    foul = "".join(PAYLOADS)
    base = reports.paired(PAYLOADS)
    bad = replace(
        base,
        name=foul,
        heading=foul,
        notes=(foul,),
        loaded=Loaded(foul, (foul,)),
        skipped={foul: foul},
        verdicts=(reports.fail("GS101", foul, foul), reports.fail(foul, foul)),
        fixes=(Fix(foul, foul, 1, 0.0, "healthy"),),
        series=replace(base.series, values={**base.series.values, f"gate.{PAYLOADS[0]}.mean": (0.5,) * len(PAYLOADS)}),
    )
    other = replace(reports.attention(PAYLOADS), name=PAYLOADS[5])
    report = replace(reports.report(bad, other), environment={foul: foul})
    for one in (report, reports.hostile_check()):
        with opened(browser, written(tmp_path, one)) as found:
            if found.page.locator("#words-0").count():
                found.page.locator("#words-0 .mark-rect path").first.hover(force=True)
                assert found.page.locator("#vg-tooltip-element.visible td.value").count() > 2
            assert found.page.evaluate("window.hacked") is None
            assert found.page.evaluate("document.querySelectorAll('img, iframe, object').length") == 0
            assert found.said == []
    assert "onerror" in report.models[0].name


def test_ten_thousand_steps_fit_and_nothing_odd_is_hidden(browser, tmp_path):
    path = written(tmp_path, odd_long())
    assert path.stat().st_size < 3_000_000
    with opened(browser, path, accept_downloads=True) as found:
        assert found.said == []
        marks = found.page.locator("#gradients-0 .mark-symbol path").count()
        assert marks >= 3
        rows = found.page.evaluate("""() => {
            const { spec } = JSON.parse(document.getElementById("specs").textContent)["gradients-0"];
            return Object.values(spec.datasets).flat().filter((row) => row.odd).map((row) => [row.x, row.odd]);
        }""")
        assert sorted(map(tuple, rows)) == [(1234, "NaN"), (4567, "Inf"), (7789, "exactly zero")]
        assert found.page.locator("#steps tbody tr").count() < 400
        with found.page.expect_download() as waiting:
            found.page.locator("#download").click()
        waiting.value.save_as(tmp_path / "again.json")
    ours = odd_long().models[0].series.values
    theirs = read_report(str(tmp_path / "again.json")).models[0].series.values
    assert theirs["log10_influence"] == pytest.approx(ours["log10_influence"], rel=1e-5)
    assert [math.isnan(v) for v in theirs["log10_grad_input"]].index(True) == 1233

"""`assert_gradient_flow`, and what its message shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gradscope.config.limits import coerce_limit
from gradscope.config.sources import LIMITS
from gradscope.records import Limits, ModelResult, Report
from gradscope.renderers import check_screen, report_screen, report_wording
from gradscope.renderers.styled_text import Page
from gradscope.renderers.view import View
from gradscope.verdicts import fails

if TYPE_CHECKING:
    from torch import Tensor

HERE = tuple(name for name in LIMITS if name not in ("timeout", "min_healthy"))
"""A test runs in the process of its tests, where nothing of ours could stop it."""


def assert_gradient_flow(
    model: Any, x: Tensor | None = None, *, loss: Any = "final", fail_on: str = "error", **settings: Any
) -> ModelResult:
    """Assert that gradients flow through `model` as far back as they are needed.

    Args:
        model: whatever `gradscope.analyze` takes: a torch module, a cell, a word such as `"lstm:forget_bias=5"`.
        x: inputs (batch, T, features); a seeded random sequence when absent.
        loss: as for `gradscope.analyze`.
        fail_on: `error`, or `warning` to be stricter.
        settings: `needs_lag=50`, `min_reach=40`, `rate=(-0.05, 0.01)`, `precision_horizon={"float32": 50}`, and every
            field of `RunSpec`: `length`, `seeds`, `ignore`, `thresholds`, ...

    Returns:
        Everything that was measured.

    Raises:
        AssertionError: a rule found something or a limit is missed; the message shows the verdict and the strip.
        UsageError: something asked for cannot be had.
    """
    __tracebackhide__ = True
    result = measured(model, x, loss=loss, fail_on=fail_on, **settings).models[0]
    if fails(result.verdicts, fail_on):
        raise AssertionError(failure(result, fail_on))
    return result


def measured(model: Any, x: Tensor | None = None, *, loss: Any = "final", **settings: Any) -> Report:
    """The report on one model, judged by the rules and by the limits among `settings`.

    Raises:
        UsageError: something asked for cannot be had.
    """
    from gradscope.api import analyze
    from gradscope.gate.limits import judge_limits, unmeasured

    limits = limits_among(settings)
    report = analyze(model, x, loss, **{name: value for name, value in settings.items() if name not in HERE})
    result = report.models[0]
    judged = replace(result, verdicts=(*unmeasured(result), *result.verdicts, *judge_limits(result, limits)))
    return replace(report, models=(judged,))


def limits_among(settings: Mapping[str, Any]) -> Limits:
    """The limits that a test holds its model to.

    Raises:
        UsageError: a value that a limit cannot be.
    """
    return Limits(**{name: coerce_limit(name, settings[name], "given") for name in HERE if name in settings})


def failure(result: ModelResult, fail_on: str = "error") -> str:
    """What is wrong, in the first line; then the verdict, what it means, the strip, every finding, and what to try."""
    page, found = Page(View(ascii=False)), check_screen.findings(result)
    lead = next((verdict for verdict in found if fails([verdict], fail_on)), found[0])
    report_screen.verdict_line(page, result)
    for sentence in report_wording.sentences(result):
        page.wrap(sentence)
    page.blank()
    report_screen.picture(page, result)
    for verdict in found:
        page.wrap(verdict.message, f" {verdict.code}  ")
    for tip in check_screen.tips(result, lead)[:1]:
        page.wrap(tip, " try: ")
    return f"{page.fold(f'{lead.code} {lead.message}')}\n\n{page}"

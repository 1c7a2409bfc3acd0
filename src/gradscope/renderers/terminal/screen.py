"""The screen: verdict first, then what it means, the picture, the telling rows, and where to read more."""

from __future__ import annotations

from gradscope.records import ModelResult, Report
from gradscope.renderers.terminal import check as terminal_check
from gradscope.renderers.terminal import compare as terminal_compare
from gradscope.renderers.terminal import model as terminal_model
from gradscope.renderers.terminal import probe as terminal_probe
from gradscope.renderers.text.page import Page
from gradscope.renderers.view import View


def render(report: Report, view: View) -> str:
    """The `analyze` screen for one model, the `compare` screen for several, a gate's for what it checked."""
    return str(page(report, view))


def beginning(model: ModelResult, view: View) -> str:
    """The first lines of the `analyze` screen: verdict, sentence, picture."""
    screen = Page(view)
    terminal_model.beginning(screen, model)
    return str(screen)


def page(report: Report, view: View) -> Page:
    """The same, before it becomes a string."""
    screen = Page(view)
    if report.check is not None:
        terminal_check.screen(screen, report)
    elif not report.models:
        screen.line(" This report holds no model.")
    elif view.quiet:
        for model in report.models:
            if model.probe is not None:
                terminal_probe.headline(screen, model, model.probe)
            else:
                terminal_model.verdict_line(screen, model)
    elif len(report.models) == 1 and report.models[0].probe is not None:
        terminal_probe.screen(screen, report.models[0])
    elif len(report.models) == 1:
        terminal_model.screen(screen, report.models[0])
    else:
        terminal_compare.screen(screen, report)
    return screen

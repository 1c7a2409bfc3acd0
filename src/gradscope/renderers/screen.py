"""What `analyze`, `compare`, `check` and `probe` show in a terminal: the screen that fits the report."""

from __future__ import annotations

from gradscope.records import ModelResult, Report
from gradscope.renderers import check_screen, compare_screen, probe_wording, report_screen
from gradscope.renderers.styled_text import Page
from gradscope.renderers.view import View


def render(report: Report, view: View) -> str:
    """The `analyze` screen for one model, the `compare` screen for several, a gate's for what it checked."""
    return str(page(report, view))


def beginning(model: ModelResult, view: View) -> str:
    """The first lines of the `analyze` screen: verdict, sentence, picture."""
    screen = Page(view)
    report_screen.beginning(screen, model)
    return str(screen)


def page(report: Report, view: View) -> Page:
    """The same, before it becomes a string."""
    screen = Page(view)
    if report.check is not None:
        check_screen.screen(screen, report)
    elif not report.models:
        screen.line(" This report holds no model.")
    elif view.quiet:
        for model in report.models:
            if model.probe is not None:
                probe_wording.headline(screen, model, model.probe)
            else:
                report_screen.verdict_line(screen, model)
    elif len(report.models) == 1 and report.models[0].probe is not None:
        probe_wording.screen(screen, report.models[0])
    elif len(report.models) == 1:
        report_screen.screen(screen, report.models[0])
    else:
        compare_screen.screen(screen, report)
    return screen

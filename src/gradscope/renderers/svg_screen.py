"""The terminal's screen as a picture: the same letters and colours, for a README or a slide."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

from gradscope.records import Report
from gradscope.renderers.screen import page
from gradscope.renderers.styled_text import plain_console, styled
from gradscope.renderers.view import View

# Fonts that systems have; nothing is fetched from anywhere.
FORMAT = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: system-ui, "DejaVu Sans", sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def render(report: Report, view: View) -> str:
    """An SVG of the screen that `text` shows, 80 columns wide where the view does not say otherwise."""
    from rich.terminal_theme import MONOKAI

    shown = page(report, replace(view, colour=True, charts=()))
    str(shown)  # blank lines at the end go
    console = plain_console(StringIO(), view.width, record=True)
    for line in shown.lines:
        console.print(styled(line), soft_wrap=True)
    return console.export_svg(title="gradscope", theme=MONOKAI, code_format=FORMAT, unique_id="gradscope")

from __future__ import annotations

from gradscope.renderers.styled_text import Column, Page, Span, measure
from gradscope.renderers.view import View


def test_wrapping_keeps_the_margin_and_breaks_long_words():
    page = Page(View(width=20))
    page.wrap("one two three four " + "x" * 30, " try: ")
    assert str(page) == " try: one two three\n      four\n      xxxxxxxxxxxxxx\n      xxxxxxxxxxxxxx\n      xx\n"


def test_a_percent_sign_stays_with_its_number():
    page = Page(View(width=20))
    page.wrap("it was just above 1 % here", "")
    assert str(page) == "it was just above\n1 % here\n"


def test_wide_characters_count_twice():
    page = Page(View(width=20))
    page.line("猫" * 30)
    assert measure(str(page).rstrip("\n")) <= 20
    assert str(page).endswith("…\n")


def test_tables_shorten_remarks_then_names_then_leave_columns_out():
    columns = [Column("name", left=True, flexible=True), Column("a"), Column("b", optional=True)]
    rows = [["a-rather-long-name-of-a-model", "1" * 20, "2" * 20]]

    def drawn(width: int) -> str:
        page = Page(View(width=width))
        page.table(columns, rows, remarks=[("long remark", "short")])
        return str(page)

    assert "long remark" in drawn(100)
    assert "short" in drawn(82)
    assert "a-rather-…" in drawn(60)
    assert "2" * 20 in drawn(60)
    columns[1:1] = [Column("c")]
    rows[0][1:1] = ["3" * 20]
    assert "(left out at this width: b)" in drawn(72)


def test_narrow_pages_hold_key_and_value():
    page = Page(View(width=40))
    page.table([Column("model"), Column("reach")], [["rnn", "7"], ["lstm", "199"]])
    assert str(page) == " model: rnn\n reach: 7\n\n model: lstm\n reach: 199\n"


def test_ascii_folds_known_glyphs_and_escapes_the_rest():
    page = Page(View(ascii=True))
    page.line("‖J‖ ✓ ✗ ◂ · → σ ² … é 猫")
    assert str(page) == "||J|| ok x < | -> s ^2 ... \\xe9 \\u732b\n"


def test_colour_adds_styles_and_nothing_else(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    page = Page(View(colour=True))
    page.line(Span("[bold]x[/bold] :smile: 42", "#0072B2"))
    assert str(page) == "\x1b[38;2;0;114;178m[bold]x[/bold] :smile: 42\x1b[0m\n"

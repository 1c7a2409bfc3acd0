"""Tables of numbers in text: .csv."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from gradscope.errors import UsageError
from gradscope.files.paths import decode_utf8, read_bytes
from gradscope.registry import unknown
from gradscope.sequences.file_data import FileData, as_ranges, column_numbers, is_numbered
from gradscope.text import safe_text

SAMPLED = 50
"""Lines by which the separator is told."""
MARKS = {"\t": "a tab", " ": "blanks"}
_MISSING = {"", "-", "?", "na", "n/a", "nan", "none", "null"}
_WITH_COMMA = re.compile(r"[-+]?\d[\d.]*(,\d+)+(\.\d*)?")
"""`1,5` or `1,000.5`: a number to whoever wrote it."""

Row = tuple[int, list[str]]
"""Line in the file, counted from 1, and its cells."""


def read_csv(path: Path, columns: tuple[str, ...], flag: str) -> FileData:
    """One row per step. A first row of words is the header; `columns` picks by name or by number from 1.

    The separator is the comma, semicolon, tab or bar by which all rows have equally many cells, of several the one that
    leaves most numbers, or blanks; where none does, the first of these marks in the first line. Lines that begin with #
    are comments, the last one above the numbers their header where it has as many cells; a row of units below the
    header is left out.

    Raises:
        UsageError: not UTF-8, no rows, rows of different lengths, unknown columns, or a cell that is no number.
    """
    what = f"'{safe_text(path)}'"
    text = decode_utf8(read_bytes(path, flag), what, "save it as UTF-8")
    separator = _separator(text)
    rows, notes = _without_comments(_rows(text, separator, what))
    header = [cell.strip() for cell in rows[0][1]] if _has_header(rows) else []
    body = rows[1:] if header else rows
    while body and not any(cell.strip() for cell in body[0][1]):
        body = body[1:]
    if not body:
        raise UsageError(f"{what} has a header and no rows of numbers; add rows or name another file")
    width = len(rows[0][1])
    _check_widths(rows, width, what)
    if header and _is_units(body):
        notes += (f"the row below the header holds no numbers ({safe_text(', '.join(body[0][1]), 40)}): left out",)
        body = body[1:]
    picked = _pick(columns, header, width, what)
    counted = not columns and _is_index(header, body)
    picked = picked[1:] if counted else picked
    names = tuple(header[index] if header else str(index + 1) for index in picked)
    values = np.array(_numbers(body, picked, names, what))
    told = f"columns {', '.join(safe_text(name, 40) for name in names[:8])}{' ...' if len(names) > 8 else ''}"
    notes = (told, *notes)
    if counted:
        notes += ("the first column has no name and numbers the rows: left out; --columns takes it",)
    if separator != ",":
        notes += (f"columns are separated by {MARKS.get(separator, separator)}",)
    return FileData(values, columns=names, notes=notes, scale="standard")


def _separator(text: str) -> str:
    """The mark that cuts the first lines into rows of one width: a comma may also stand in a name or a number."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")][:SAMPLED]
    marks = [mark for mark in ",;\t|" if lines and mark in lines[0]]
    found: dict[str, float] = {}
    for mark in (*marks, " "):
        with suppress(csv.Error):
            # Words of a header may hold blanks themselves.
            cut = list(_reader(lines if mark != " " else lines[1:] or lines, mark))
            widths = {len(row) for row in cut}
            if len(widths) == 1 and widths != {1}:
                cells = [cell for row in cut[1:] or cut for cell in row]
                found[mark] = sum(_is_number(cell) for cell in cells) / len(cells)
    if found.get(" ", 1.0) < 1.0 and marks:
        del found[" "]
    return max(found, key=lambda mark: found[mark]) if found else marks[0] if marks else ","


def _reader(lines: Iterable[str], separator: str) -> Any:
    """Rows of cells; many blanks separate as one does."""
    blanks = separator == " "
    return csv.reader(
        (re.sub(r"[ \t]+$", "", line.replace("\t", " "), flags=re.M) for line in lines) if blanks else lines,
        delimiter=separator,
        skipinitialspace=blanks,
    )


def _rows(text: str, separator: str, what: str) -> list[Row]:
    reader = _reader(io.StringIO(text, newline=""), separator)
    try:
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise UsageError(
            f"{what} is not a table: {safe_text(error)} (line {reader.line_num}); check its quotes"
        ) from error
    filled = [place for place, (_, row) in enumerate(rows) if any(cell.strip() for cell in row)]
    if not filled:
        raise UsageError(f"{what} holds only blank lines; add rows of numbers or name another file")
    rows = rows[filled[0] : filled[-1] + 1]
    blank = [not any(cell.strip() for cell in row) for _, row in rows]
    if len(rows[0][1]) == 1 and blank[1::2].count(False) + blank[0::2].count(True):
        # In a table of one column a blank line is a value that is missing, unless all lines end twice.
        return [(line, row or [""]) for line, row in rows]
    return [(line, row) for line, row in rows if row and (len(row) > 1 or row[0].strip())]


def _without_comments(rows: list[Row]) -> tuple[list[Row], tuple[str, ...]]:
    """Rows but those that begin with #, and how many these were; the header may be the last of them."""
    kept = [row for row in rows if not row[1][0].lstrip().startswith("#")]
    if not kept or len(kept) == len(rows):
        return rows, ()
    above = [row for row in rows[: rows.index(kept[0])] if len(row[1]) > 1]
    if above and all(_is_number(cell) for cell in kept[0][1]):
        line, cells = above[-1]
        cells = [cells[0].lstrip().lstrip("#"), *cells[1:]]
        cells = cells[1:] if len(cells) == len(kept[0][1]) + 1 and not cells[0].strip() else cells
        if len(cells) == len(kept[0][1]):
            kept = [(line, cells), *kept]
    count = len(rows) - len(kept)
    return kept, (f"{count} line{'s' * (count > 1)} of comments (#) left out",) if count else ()


def _is_units(body: list[Row]) -> bool:
    """Whether the first row holds words such as `m/s` or `degC` where all others hold numbers, and no number."""
    (_, first), below = body[0], [row for _, row in body[1:SAMPLED]]
    if not below or any(_is_number(cell) for cell in first):
        return False
    words = [cell.strip() for place, cell in enumerate(first) if all(_is_number(row[place]) for row in below)]
    return any(word.lower() not in _MISSING for word in words) and not any(
        re.match(r"[-+.]?\d", word) or word.lower() in _MISSING - {"", "-"} for word in words
    )


def _is_index(header: list[str], body: list[Row]) -> bool:
    """Whether the first column is what pandas and R write beside a table: no name, and whole numbers that rise.

    They begin at 0 or 1, and have gaps where rows were left out.
    """
    if len(header) < 2 or header[0] not in ("", "Unnamed: 0"):
        return False
    cells = [row[0].strip() for _, row in body]
    if not all(re.fullmatch(r"[0-9]{1,15}(\.0)?", cell) for cell in cells):
        return False
    values = [float(cell) for cell in cells]
    return all(one < following for one, following in pairwise(values))


def _has_header(rows: list[Row]) -> bool:
    """A header has a word above numbers. Missing-value words do not count, or `NA` would swallow the first step."""
    below = [row for _, row in rows[1:21]]
    first = rows[0][1]
    words = [i for i, cell in enumerate(first) if not _is_number(cell) and cell.strip().lower() not in _MISSING]
    if not below:
        return len(words) == len(first)
    cells = [row[i].strip() for i in words for row in below if i < len(row)]
    return any(_is_number(cell) for cell in cells)


def _check_widths(rows: list[Row], width: int, what: str) -> None:
    for line, row in rows:
        if len(row) != width:
            raise UsageError(
                f"{what} is ragged: line {line} has {len(row)} cells, line {rows[0][0]} has {width}; make them equal"
            )


def _pick(columns: tuple[str, ...], header: list[str], width: int, what: str) -> list[int]:
    if not columns:
        return list(range(width))
    if not header:
        return column_numbers(columns, width, what)
    picked = []
    for column in columns:
        if column in header:
            picked.append(header.index(column))
        elif is_numbered(column):
            picked += column_numbers((column,), width, what)
        else:
            raise UsageError(f"{what}: {unknown('column', column, [safe_text(name, 40) for name in header])}")
    return picked


def _numbers(body: list[Row], picked: list[int], names: tuple[str, ...], what: str) -> list[list[float]]:
    table = [[_number(cells[index]) for index in picked] for _, cells in body]
    for number, ((line, cells), values) in enumerate(zip(body, table, strict=True), start=1):
        for index, name, value in zip(picked, names, values, strict=True):
            if value is None:
                whole = [
                    place for place, column in zip(picked, zip(*table, strict=True), strict=True) if None not in column
                ]
                cell = cells[index].strip()
                gap = cell.lower() in _MISSING
                remedy = "fill the gap, as by interpolation" if gap else "correct it"
                remedy = "write it with a decimal point and no comma" if _WITH_COMMA.fullmatch(cell) else remedy
                found = "is empty" if not cell else f"is '{safe_text(cell, 40)}', not a number"
                columns = "column" if len(whole) == len(picked) - 1 else "columns of words"
                leave = f", or leave the {columns} out: --columns {as_ranges(whole)}" if whole else ""
                raise UsageError(
                    f"{what}: row {number} (line {line}), column '{safe_text(name, 40)}' {found}; {remedy}{leave}"
                )
    return [[value for value in values if value is not None] for values in table]


def _is_number(cell: str) -> bool:
    """Whether whoever wrote it meant a number."""
    return _number(cell) is not None or _WITH_COMMA.fullmatch(cell.strip()) is not None


def _number(cell: str) -> float | None:
    # float() would also take 1_000, which no table means
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None

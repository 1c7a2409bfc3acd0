"""Tables of numbers in text: .csv."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from gradscope.errors import UsageError
from gradscope.files.paths import decode_utf8, read_bytes
from gradscope.registry import unknown
from gradscope.sequences.file_data import FileData, column_numbers
from gradscope.text import safe_text

_MISSING = {"", "-", "?", "na", "n/a", "nan", "none", "null"}

Row = tuple[int, list[str]]
"""Line in the file, counted from 1, and its cells."""


def read_csv(path: Path, columns: tuple[str, ...], flag: str) -> FileData:
    """One row per step. A first row of words is the header; `columns` picks by name or by number from 1.

    The separator is the comma, or where the first line has none the semicolon, tab or bar found there.

    Raises:
        UsageError: not UTF-8, no rows, rows of different lengths, unknown columns, or a cell that is no number.
    """
    what = f"'{safe_text(path)}'"
    text = decode_utf8(read_bytes(path, flag), what, "save it as UTF-8")
    separator = _separator(text)
    rows = _rows(text, separator, what)
    header = [cell.strip() for cell in rows[0][1]] if _has_header(rows) else []
    body = rows[1:] if header else rows
    if not body:
        raise UsageError(f"{what} has a header and no rows of numbers; add rows or name another file")
    width = len(rows[0][1])
    _check_widths(rows, width, what)
    picked = _pick(columns, header, width, what)
    names = tuple(header[index] if header else str(index + 1) for index in picked)
    values = np.array([_numbers(number, row, picked, names, what) for number, row in enumerate(body, start=1)])
    notes: tuple[str, ...] = (
        f"columns {', '.join(safe_text(name, 40) for name in names[:8])}{' ...' if len(names) > 8 else ''}",
    )
    if separator != ",":
        notes += (f"columns are separated by {'a tab' if separator == chr(9) else separator}",)
    return FileData(values, columns=names, notes=notes, scale="standard")


def _separator(text: str) -> str:
    first = next((line for line in text.splitlines() if line.strip()), "")
    return next((mark for mark in ",;\t|" if mark in first), ",")


def _rows(text: str, separator: str, what: str) -> list[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise UsageError(
            f"{what} is not a table: {safe_text(error)} (line {reader.line_num}); check its quotes"
        ) from error
    if not rows:
        raise UsageError(f"{what} holds only blank lines; add rows of numbers or name another file")
    return rows


def _has_header(rows: list[Row]) -> bool:
    """A header has a word above numbers. Missing-value words do not count, or `NA` would swallow the first step."""
    below = [row for _, row in rows[1:21]]
    first = rows[0][1]
    words = [i for i, cell in enumerate(first) if _number(cell) is None and cell.strip().lower() not in _MISSING]
    if not below:
        return len(words) == len(first)
    return any(_number(row[i]) is not None for i in words for row in below if i < len(row))


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
        elif column.isascii() and column.isdigit():
            picked += column_numbers((column,), width, what)
        else:
            raise UsageError(f"{what}: {unknown('column', column, [safe_text(name, 40) for name in header])}")
    return picked


def _numbers(number: int, row: Row, picked: list[int], names: tuple[str, ...], what: str) -> list[float]:
    line, cells = row
    values = [_number(cells[index]) for index in picked]
    for index, name, value in zip(picked, names, values, strict=True):
        if value is None:
            cell = cells[index].strip()
            found = f"is '{safe_text(cell, 40)}', not a number" if cell else "is empty"
            raise UsageError(
                f"{what}: row {number} (line {line}), column '{safe_text(name, 40)}' {found}; "
                "correct it, or choose columns of numbers with --columns"
            )
    return [value for value in values if value is not None]


def _number(cell: str) -> float | None:
    # float() would also take 1_000, which no table means
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None

"""Readers of files of numbers: .npy, .npz, .pt, .csv and .wav; nothing in them is ever executed."""

from __future__ import annotations

import csv
import io
import re
import wave
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from gradscope.errors import UsageError
from gradscope.files.numpy_file import npz_names, open_npy, read_npz
from gradscope.files.paths import decode_utf8, read_bytes
from gradscope.files.tensors import checked
from gradscope.files.torch_file import WantsCodeError, load_torch
from gradscope.registry import unknown
from gradscope.text import safe_text


@dataclass(frozen=True, eq=False)
class FileData:
    """Numbers of one file."""

    values: NDArray[Any]
    """Real numbers as stored: (T,), (T, F) or (B, T, F); for targets also (B,) and (B, T)."""
    columns: tuple[str, ...] = ()
    """Names of the features, for messages; empty where the format has none."""
    picks: tuple[str, ...] = ()
    """Words of `--columns` still to be applied: features by number, counted from 1."""
    notes: tuple[str, ...] = ()
    factor: float = 1.0
    """What `values` are multiplied with (1/32768 for 16-bit sound)."""
    scale: str = "none"
    """The `--scale` of this format when none is given."""


def is_numbered(pick: str) -> bool:
    """Whether a word of `--columns` is a number, `3`, or a range with both ends, `2-5`."""
    return re.fullmatch(r"[0-9]{1,9}(-[0-9]{1,9})?", pick) is not None


def column_numbers(picks: tuple[str, ...], count: int, what: str) -> list[int]:
    """Positions (from 0) of the columns that `picks` counts from 1, one by one or as ranges such as `2-5`.

    Raises:
        UsageError: not a number, or no such column.
    """
    found: list[int] = []
    for pick in picks:
        if not is_numbered(pick):
            raise UsageError(
                f"{what} has no column '{safe_text(pick)}'; its {count} columns go by number, 1 to {count}"
            )
        first, _, last = pick.partition("-")
        if not 1 <= int(first) <= int(last or first) <= count:
            raise UsageError(f"--columns {pick} is not in {what}; its columns are 1 to {count}")
        found += range(int(first) - 1, int(last or first))
    return found


def as_ranges(places: list[int]) -> str:
    """Positions (from 0) as `--columns` has them: `1,3-13`."""
    runs: list[list[int]] = []
    for place in sorted(places):
        if runs and runs[-1][-1] == place - 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    return ",".join(str(run[0] + 1) if len(run) == 1 else f"{run[0] + 1}-{run[-1] + 1}" for run in runs)


Entry = TypeVar("Entry")


def read_npy(path: Path, columns: tuple[str, ...], flag: str) -> FileData:
    """One array, mapped into memory: only the steps that are used are read.

    Raises:
        UsageError: not an npy file, Python objects inside, or fewer bytes than its header says.
    """
    return FileData(open_npy(path), picks=columns)


def read_npz_array(path: Path, columns: tuple[str, ...], flag: str) -> FileData:
    """The only array of an archive, or the one that `columns` names.

    Raises:
        UsageError: not an archive, damaged, Python objects inside, or several arrays and none named.
    """
    name, picks = _choose(dict.fromkeys(npz_names(path)), columns, path)
    return FileData(read_npz(path, name), picks=picks, notes=(f"array {safe_text(name, 40)}",))


def read_pt(path: Path, columns: tuple[str, ...], flag: str) -> FileData:
    """A tensor, or the only tensor of a dict, or the one that `columns` names.

    Raises:
        UsageError: more than tensors inside, damaged, no tensor, or several and none named.
    """
    shown = safe_text(path)
    try:
        loaded = load_torch(path, flag)
    except WantsCodeError as error:
        raise UsageError(f"{error}; save the tensor alone with torch.save(x, path)") from error
    notes: tuple[str, ...] = ()
    if isinstance(loaded, dict):
        tensors = {str(key): value for key, value in dict.items(loaded) if isinstance(value, torch.Tensor)}
        name, columns = _choose(tensors, columns, path)
        loaded, notes = tensors[name], (f"tensor {safe_text(name, 40)}",)
    if not isinstance(loaded, torch.Tensor):
        raise UsageError(f"'{shown}' holds a {type(loaded).__name__}, a tensor is needed; save the tensor alone")
    return FileData(_to_numpy(checked(loaded, "", shown), shown), picks=columns, notes=notes)


def _to_numpy(tensor: torch.Tensor, shown: str) -> NDArray[Any]:
    plain = tensor.to(torch.float32) if tensor.dtype == torch.bfloat16 else tensor
    try:
        values: NDArray[Any] = plain.numpy()
    except (TypeError, RuntimeError) as error:
        raise UsageError(f"'{shown}' holds {tensor.dtype} numbers; save x.to(torch.float32)") from error
    return values


def _choose(entries: Mapping[str, Entry], columns: tuple[str, ...], path: Path) -> tuple[str, tuple[str, ...]]:
    """The entry that `columns` names, else the only one; and the words left over, which pick features."""
    shown, names = safe_text(path), [safe_text(name, 40) for name in entries]
    if not entries:
        raise UsageError(f"'{shown}' holds no arrays; name another file")
    named = [column for column in columns if column in entries]
    rest = tuple(column for column in columns if column not in entries)
    if len(named) > 1:
        raise UsageError(f"--columns names {len(named)} arrays of '{shown}', one sequence is needed; name one")
    if named:
        return named[0], rest
    wrong = [column for column in rest if not is_numbered(column)]
    if wrong:
        raise UsageError(f"'{shown}': {unknown('array', wrong[0], names)}")
    if len(entries) > 1:
        raise UsageError(
            f"'{shown}' holds {len(entries)} arrays ({', '.join(names[:8])}); choose one with --columns NAME"
        )
    return next(iter(entries)), rest


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
    text = re.sub(r'\A"?sep=.?"?(?=[\r\n])', "", text)  # a line for Excel, which the rows tell as well
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
    counted = not columns and _is_index(header, body)
    picked = _pick(columns, header, width, what)[int(counted) :]
    names = tuple(header[index] if header else str(index + 1) for index in picked)
    values = np.array(_numbers(body, picked, names, what, flag))
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
    for column in _whole_names(columns, header):
        if header.count(column) > 1:
            places = [place for place, name in enumerate(header) if name == column]
            shown = f"{len(places)} columns are called '{safe_text(column, 40)}'"
            raise UsageError(f"{what}: {shown}; choose by number: --columns {as_ranges(places)}")
        if column in header:
            picked.append(header.index(column))
        elif is_numbered(column):
            picked += column_numbers((column,), width, what)
        else:
            raise UsageError(f"{what}: {unknown('column', column, [safe_text(name, 40) for name in header])}")
    return picked


def _whole_names(words: tuple[str, ...], header: list[str]) -> tuple[str, ...]:
    """The names that are meant: one that holds a comma, `b, c`, was taken for several words.

    Where each of these is a column itself, they are meant one by one.
    """
    joined = {re.sub(r"\s*,\s*", ",", name): name for name in header if "," in name}
    found, place = [], 0
    while place < len(words):
        ends = (end for end in range(len(words), place + 1, -1) if ",".join(words[place:end]) in joined)
        end = next((end for end in ends if not {*words[place:end]} <= {*header}), place + 1)
        found.append(joined.get(",".join(words[place:end]), words[place]))
        place = end
    return tuple(found)


def _numbers(body: list[Row], picked: list[int], names: tuple[str, ...], what: str, flag: str) -> list[list[float]]:
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
                # --columns is of the input alone: of a target every column is an answer.
                way = f": --columns {as_ranges(whole)}" if flag == "--input" else f" of a file for {flag}"
                leave = f", or leave the {columns} out{way}" if whole else ""
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


EXTENSIBLE = b"\xfe\xff"
_REMEDY = "convert it: ffmpeg -i in.wav -c:a pcm_s16le out.wav"


def read_wav(path: Path, columns: tuple[str, ...], flag: str) -> FileData:
    """One step per sample, one feature per channel, full scale = 1.

    Raises:
        UsageError: not a wav file, not PCM, or fewer samples than its header says.
    """
    shown = safe_text(path)
    try:
        with wave.open(io.BytesIO(_as_pcm(path.read_bytes())), "rb") as sound:
            channels, width, rate, declared, *_ = sound.getparams()
            raw = sound.readframes(declared)
    except (wave.Error, EOFError, OSError) as error:
        raise _unusable(shown, error) from error
    if width not in (1, 2, 3, 4):
        raise UsageError(f"'{shown}' has samples of {8 * width} bits, 8 to 32 can be read; {_REMEDY}")
    held = len(raw) // (width * channels)
    if held < declared or len(raw) % (width * channels):
        raise UsageError(f"'{shown}' is cut short: its header says {declared:,} samples, it holds {held:,}; {_REMEDY}")
    values = _samples(raw, width).reshape(held, channels)
    kind = "mono" if channels == 1 else "stereo" if channels == 2 else f"{channels} channels"
    note = f"{held / rate:.3g} s of sound at {rate} Hz, {kind}; one step per sample"
    return FileData(values, picks=columns, notes=(note,), factor=2.0 ** (1 - 8 * width), scale="standard")


def _as_pcm(raw: bytes) -> bytes:
    """The file with a plain format instead of an extensible one, WAVE_FORMAT_EXTENSIBLE, that stands for it.

    ffmpeg writes that for 24 bits and for more than two channels; Python reads it from 3.12 on.
    """
    place = raw.find(b"fmt ", 12, 4096)
    start = place + 8
    if place < 0 or len(raw) < start + 40 or raw[start : start + 2] != EXTENSIBLE:
        return raw
    # The sub-format is a GUID that begins with the plain format's number.
    return raw[:start] + raw[start + 24 : start + 26] + raw[start + 2 :]


def _samples(raw: bytes, width: int) -> NDArray[Any]:
    if width == 1:  # the only unsigned one: silence is 128
        return np.frombuffer(raw, dtype=np.uint8).astype(np.int16) - 128
    if width == 3:  # to the upper three bytes of 32 bits, then down again with the sign
        wide = np.zeros((len(raw) // 3, 4), dtype=np.uint8)
        wide[:, 1:] = np.frombuffer(raw, dtype=np.uint8).reshape(-1, 3)
        return wide.view("<i4")[:, 0] >> 8
    return np.frombuffer(raw, dtype=f"<i{width}")


def _unusable(shown: str, error: Exception) -> UsageError:
    text = str(error)
    if text.endswith("format: 3"):
        return UsageError(f"'{shown}' holds floating-point sound, only PCM can be read; {_REMEDY}")
    if text.startswith("unknown format"):
        return UsageError(f"'{shown}' is coded sound ({safe_text(text)}), only PCM can be read; {_REMEDY}")
    reason = safe_text(text or "it ends too early", 100)
    return UsageError(f"'{shown}' is damaged or no wav file ({reason}); {_REMEDY}")

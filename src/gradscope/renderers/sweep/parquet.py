"""A sweep as Parquet: the rows of CSV with types."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from gradscope.errors import UsageError
from gradscope.renderers.sweep import data
from gradscope.renderers.view import View
from gradscope.swept import SCHEMA, Sweep


def render(sweep: Sweep, view: View) -> bytes:
    """One row for each run; axes whose values are all numbers are numbers. `view` changes nothing: data are data.

    Raises:
        UsageError: pyarrow, which writes it, is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UsageError("Parquet is written by pyarrow; pip install 'gradscope-bptt[parquet]'") from None
    names = data.names(sweep)
    columns: list[list[Any]] = [list(column) for column in zip(*data.rows(sweep), strict=True)] or [[] for _ in names]
    for place, axis in enumerate(sweep.axes):
        if axis.numbers is not None:
            by_text = dict(zip(axis.values, axis.numbers, strict=True))
            columns[place] = [by_text[text] for text in columns[place]]
    texts = {*data.STANDARD} - {"seconds"}
    kinds = [pyarrow.string() if axis.numbers is None else pyarrow.float64() for axis in sweep.axes]
    kinds += [
        pyarrow.string()
        if name.removeprefix("run.") in texts
        else pyarrow.int64()
        if name == "seed"
        else pyarrow.float64()
        for name in names[len(sweep.axes) :]
    ]
    schema = pyarrow.schema(list(zip(names, kinds, strict=True)), metadata={"schema": SCHEMA})
    out = BytesIO()
    arrays = [pyarrow.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    pyarrow.parquet.write_table(pyarrow.table(arrays, schema=schema), out)
    return out.getvalue()

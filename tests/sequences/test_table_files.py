from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gradscope.errors import UsageError
from gradscope.records import RunSpec
from gradscope.sequences.file_readers import read_csv
from gradscope.sequences.make_batch import make_batch


def table(folder: Path, content: str | bytes) -> str:
    path = folder / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def error(name: str, **options: object) -> str:
    with pytest.raises(UsageError) as caught:
        make_batch(RunSpec(input=name, **options), seed=0)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "columns", "expected", "note"),
    [
        ("a,b\n1,2\n3,4\n", (), [[1, 2], [3, 4]], "columns a, b"),
        ("1,2\n3,4\n", (), [[1, 2], [3, 4]], "columns 1, 2"),
        ('"a","b"\r\n1,2\r\n\r\n3,4', ("b",), [[2], [4]], "columns b"),
        ("a,b\n1,2\n3,4\n", ("2", "a"), [[2, 1], [4, 3]], "columns b, a"),
        ("1,2\n3,4\n", ("2",), [[2], [4]], "columns 2"),
        ('a,"b, c"\n1,2\n3,4\n', ("b", "c"), [[2], [4]], "columns b, c"),
        ('"b, c",b\n1,2\n3,4\n', ("b", "b", "c"), [[2, 1], [4, 3]], "columns b, b, c"),
        ('b,c,"b,c"\n1,2,9\n3,4,8\n', ("b", "c"), [[1, 2], [3, 4]], "columns b, c"),
        ("2020,1951\n1,2\n3,4\n", (), [[2020, 1951], [1, 2], [3, 4]], "columns 1, 2"),
        (" day , x\nmon,-1e3\ntue, .5\n", ("x",), [[-1000], [0.5]], "columns x"),
        (b"\xef\xbb\xbfa\n1\n2\n", ("a",), [[1], [2]], "columns a"),
        ("5\n6\n7\n", (), [[5], [6], [7]], "columns 1"),
        ("\n\nx\n\n1\n2\n\n \n", (), [[1], [2]], "columns x"),
        ("x\r\r\n1\r\r\n2\r\r\n", (), [[1], [2]], "columns x"),
        (b"\xef\xbb\xbfsep=,\r\na,b\r\n1,2\r\n3,4\r\n", ("b",), [[2], [4]], "columns b"),
        ('"sep=,"\n1,2\n3,4\n', (), [[1, 2], [3, 4]], "columns 1, 2"),
        ("d,a,b,c,e\n1/1,1,2,3,4\n1/2,5,6,7,8\n", ("2-3", "5"), [[1, 2, 4], [5, 6, 8]], "columns a, b, e"),
        (",a\n2,7\n0,8\n", (), [[2, 7], [0, 8]], "columns , a"),
        (",a\n0,7\n1,8\n", ("1-2",), [[0, 7], [1, 8]], "columns , a"),
    ],
)
def test_rows_are_steps(
    tmp_path: Path, content: str | bytes, columns: tuple[str, ...], expected: list[list[float]], note: str
) -> None:
    batch = make_batch(RunSpec(input=table(tmp_path, content), columns=columns, scale="none"), seed=0)
    assert batch.x.tolist() == [expected]
    assert batch.notes == (note,)


@pytest.mark.parametrize(("mark", "said"), [(";", ";"), ("\t", "a tab"), ("|", "|")])
def test_other_separators_are_found_and_said(tmp_path: Path, mark: str, said: str) -> None:
    name = table(tmp_path, f"a{mark}b\n1{mark}2\n3{mark}4\n")
    batch = make_batch(RunSpec(input=name, scale="none"), seed=0)
    assert batch.x.tolist() == [[[1, 2], [3, 4]]]
    assert batch.notes == ("columns a, b", f"columns are separated by {said}")


def test_standard_scale_is_the_default_and_constant_columns_become_zero(tmp_path: Path) -> None:
    batch = make_batch(RunSpec(input=table(tmp_path, "a,b\n1,7\n3,7\n")), seed=0)
    assert batch.x.tolist() == [[[-1, 0], [1, 0]]]
    assert batch.notes == (
        "columns a, b",
        "each column scaled to zero mean and unit variance over the steps used",
        "constant columns set to 0: b",
    )
    assert batch.source.endswith("t.csv")


@pytest.mark.parametrize("size", ["e300", "e-300", "e0"])
def test_standard_scale_keeps_its_digits_at_any_size(tmp_path: Path, size: str) -> None:
    x = make_batch(RunSpec(input=table(tmp_path, f"0{size}\n1{size}\n2{size}\n")), seed=0).x
    assert x.flatten().tolist() == pytest.approx([-1.224744871391589, 0.0, 1.224744871391589], rel=1e-14)


def test_scale_looks_at_the_steps_used(tmp_path: Path) -> None:
    batch = make_batch(RunSpec(input=table(tmp_path, "a\n0\n2\n1000\n"), length=2), seed=0)
    assert batch.x.flatten().tolist() == [-1, 1]
    assert batch.notes[1] == "first 2 of 3 steps"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "a,b\n1,2\n3,x\x1b\n",
            r"row 2 (line 3), column 'b' is 'x\x1b', not a number; "
            "correct it, or leave the column out: --columns 1",
        ),
        (
            "mon,1\ntue,2\n",
            "row 1 (line 1), column '1' is 'mon', not a number; correct it, or leave the column out: --columns 2",
        ),
        (
            "a,b\n1,2\n\n3,\n",
            "row 2 (line 4), column 'b' is empty; "
            "fill the gap, as by interpolation, or leave the column out: --columns 1",
        ),
        (
            "a\n1_000\n2\n3\n",
            "row 1 (line 2), column 'a' is '1_000', not a number; correct it",
        ),
        (
            "NA,1\n2,3\n",
            "row 1 (line 1), column '1' is 'NA', not a number; "
            "fill the gap, as by interpolation, or leave the column out: --columns 2",
        ),
    ],
)
def test_cells_that_are_no_numbers(tmp_path: Path, content: str, message: str) -> None:
    name = table(tmp_path, content)
    assert error(name) == f"'{name}': {message}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n3\n", "is ragged: line 3 has 1 cells, line 1 has 2; make them equal"),
        ("a,b\n", "has a header and no rows of numbers; add rows or name another file"),
        ("\n \n", "holds only blank lines; add rows of numbers or name another file"),
        ("a\n1\n", "has 1 step; at least 2 per sequence are needed, use a longer source"),
        (
            "a\n1\n2\nnan\ninf\n",
            "has nan at row 3, column 'a' (and 1 more NaN or Inf); fill or remove it, or ",
        ),
        ("a,b\n1,2\n3,-inf\n", "has -inf at row 2, column 'b'; fill or remove it, or choose other "),
        (b"a\n1\n\xff2\n", "is not UTF-8: byte 0xff at offset 4; save it as UTF-8"),
    ],
)
def test_bad_tables(tmp_path: Path, content: str | bytes, message: str) -> None:
    name = table(tmp_path, content)
    assert error(name).startswith(f"'{name}' {message}")


def test_a_name_of_two_columns_is_refused_with_their_numbers(tmp_path: Path) -> None:
    name = table(tmp_path, "a,b,a\n1,2,3\n4,5,6\n")
    assert error(name, columns=("a",)) == f"'{name}': 2 columns are called 'a'; choose by number: --columns 1,3"
    assert make_batch(RunSpec(input=name, columns=("b", "3")), seed=0).x.shape == (1, 2, 2)


def test_bad_cells_behind_the_steps_used_do_no_harm(tmp_path: Path) -> None:
    name = table(tmp_path, "a\n1\n2\nnan\n")
    assert make_batch(RunSpec(input=name, length=2), seed=0).x.flatten().tolist() == [-1, 1]


@pytest.mark.parametrize(
    ("content", "column", "message"),
    [
        ("year,sun\n1,2\n3,4\n", "yaer", "'{}': unknown column 'yaer'; did you mean 'year'? (one of: year, sun)"),
        ("year,sun\n1,2\n3,4\n", "3", "--columns 3 is not in '{}'; its columns are 1 to 2"),
        ("1,2\n3,4\n", "0", "--columns 0 is not in '{}'; its columns are 1 to 2"),
        ("1,2\n3,4\n", "sun", "'{}' has no column 'sun'; its 2 columns go by number, 1 to 2"),
    ],
)
def test_columns_that_are_not_there(tmp_path: Path, content: str, column: str, message: str) -> None:
    name = table(tmp_path, content)
    assert error(name, columns=(column,)) == message.format(name)


def test_a_model_of_another_size_names_both_and_the_remedy(tmp_path: Path) -> None:
    name = table(tmp_path, "a,b\n1,2\n3,4\n")
    with pytest.raises(UsageError) as caught:
        make_batch(RunSpec(input=name), seed=0, input_size=16)
    remedy = "build the model with input_size=2, or prepare a file of 16 features"
    assert str(caught.value) == f"'{name}' has 2 features per step, the model takes 16; {remedy}"
    assert (
        error(name, input_size=1)
        == f"'{name}' has 2 features per step, the model takes 1; choose columns with --columns"
    )


def test_unknown_scale(tmp_path: Path) -> None:
    message = "unknown scale 'standart'; did you mean 'standard'? (one of: none, standard)"
    assert error(table(tmp_path, "1\n2\n"), scale="standart") == message


def test_too_large_for_the_dtype(tmp_path: Path) -> None:
    message = "the input reaches 1e+06, too large for float16; use --dtype float64 or --scale standard"
    assert error(table(tmp_path, "1\n1e6\n"), scale="none", dtype="float16") == message


def test_a_constant_column_is_exactly_zero_whatever_its_mean_rounds_to(tmp_path: Path) -> None:
    x = make_batch(RunSpec(input=table(tmp_path, "0.1\n" * 7)), seed=0).x
    assert x.flatten().tolist() == [0.0] * 7


@pytest.mark.parametrize(
    ("content", "values"),
    [
        ('"x, y";z\n1;2\n3;4\n', [[1, 2], [3, 4]]),
        ("close;open, USD\n1;2\n3;4\n", [[1, 2], [3, 4]]),
        ("a, b\tc\n1\t2\n3\t4\n", [[1, 2], [3, 4]]),
        ('a;b,c\n"1",2\n3,4\n', [[1, 2], [3, 4]]),
    ],
)
def test_a_comma_in_a_name_separates_nothing(tmp_path: Path, content: str, values: list[list[float]]) -> None:
    (tmp_path / "t.csv").write_text(content)
    assert read_csv(tmp_path / "t.csv", (), "--input").values.tolist() == values


@pytest.mark.parametrize(
    ("content", "cell"), [("a;b\n1,5;2,5\n3,5;4,5\n", "1,5"), ('a,b\n"1,000.5",2\n"3,000",4\n', "1,000.5")]
)
def test_numbers_that_are_written_with_commas_are_told(tmp_path: Path, content: str, cell: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    told = rf"row 1 \(line 2\), column 'a' is '{cell}', not a number; write it with a decimal point and no comma"
    with pytest.raises(UsageError, match=told):
        read_csv(tmp_path / "t.csv", (), "--input")


@pytest.mark.parametrize(
    ("first", "left_out"),
    [((1, 2, 3), True), ((0, 2, 7), True), ((2, 1, 3), False), ((1, 1, 2), False), ((0.5, 1, 2), False)],
)
def test_row_numbers_are_no_feature(tmp_path: Path, first: tuple[float, ...], left_out: bool) -> None:
    """R counts from 1, and a data frame of which rows were dropped has gaps."""
    (tmp_path / "t.csv").write_text('"","a"\n' + "".join(f'"{one}",{place}\n' for place, one in enumerate(first)))
    found = read_csv(tmp_path / "t.csv", (), "--input")
    assert found.columns == (("a",) if left_out else ("", "a"))
    assert any("left out" in note for note in found.notes) == left_out


def test_the_index_that_pandas_writes_is_left_out_and_said(tmp_path: Path) -> None:
    batch = make_batch(RunSpec(input=table(tmp_path, ",a,b\n0,5,7\n1,6,9\n2,5,8\n"), scale="none"), seed=0)
    assert batch.x.tolist() == [[[5, 7], [6, 9], [5, 8]]]
    assert batch.notes == (
        "columns a, b",
        "the first column has no name and numbers the rows: left out; --columns takes it",
    )


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ("x\n1\n\n3\n", "row 2 (line 3), column 'x' is empty"),
        ("x\n1\n \n3\n4\n", "row 2 (line 3), column 'x' is empty"),
        ("a,b\n1,2\n,\n5,6\n", "row 2 (line 3), column 'a' is empty"),
    ],
)
def test_a_row_that_is_missing_is_not_passed_over(tmp_path: Path, content: str, place: str) -> None:
    assert place in error(table(tmp_path, content))


def test_of_thousands_of_sequences_the_first_are_taken_and_that_is_said(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((200, 3, 2)))
    found = make_batch(RunSpec(input=str(tmp_path / "x.npy")), seed=0)
    assert len(found.x) == 64
    assert "first 64 of 200 sequences; --batch takes more" in found.notes
    assert len(make_batch(RunSpec(input=str(tmp_path / "x.npy"), batch=150), seed=0).x) == 150
    assert len(make_batch(RunSpec(input=str(tmp_path / "x.npy")), seed=0, whole=True).x) == 200


@pytest.mark.parametrize(
    ("content", "values", "names", "note"),
    [
        ("1 2\n3 4\n", [[1, 2], [3, 4]], ("1", "2"), "columns are separated by blanks"),
        ("  1.0   2.0  \n 30.0   4.0\n", [[1, 2], [30, 4]], ("1", "2"), "columns are separated by blanks"),
        ("time value\n0 1.5\n1 2.5\n", [[0, 1.5], [1, 2.5]], ("time", "value"), "columns are separated by blanks"),
        ("# time value\n0 1.5\n1 2.5\n", [[0, 1.5], [1, 2.5]], ("time", "value"), "columns are separated by blanks"),
        ("1, 2\n3, 4\n", [[1, 2], [3, 4]], ("1", "2"), None),
        ("# made today\na,b\n1,2\n3,4\n", [[1, 2], [3, 4]], ("a", "b"), "1 line of comments (#) left out"),
        ("# a,b\n1,2\n# a pause\n3,4\n", [[1, 2], [3, 4]], (" a", "b"), "1 line of comments (#) left out"),
        ("# by me\n# now\n1,2\n3,4\n", [[1, 2], [3, 4]], ("1", "2"), "2 lines of comments (#) left out"),
        ("a,b\ns,degC\n1,2\n3,4\n", [[1, 2], [3, 4]], ("a", "b"), "below the header holds no numbers (s, degC)"),
        ("a;b\n;m/s\n1;2\n3;4\n", [[1, 2], [3, 4]], ("a", "b"), "below the header holds no numbers (, m/s)"),
    ],
)
def test_tables_as_instruments_and_numpy_write_them(tmp_path, content, values, names, note) -> None:
    found = read_csv(Path(table(tmp_path, content)), (), "--input")
    assert found.values.tolist() == values
    assert tuple(name.strip() for name in found.columns) == tuple(name.strip() for name in names)
    assert len(found.notes) == 1 if note is None else any(note in told for told in found.notes)


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ("1,5;2,5\n3,5;4,5\n", "row 1 (line 1), column '1' is '1,5'"),
        ("1,5 2,5\n3,5 4,5\n", "row 1 (line 1), column '1' is '1,5'"),
        ("1,5\t2,5\n3,5\t4,5\n", "row 1 (line 1), column '1' is '1,5'"),
    ],
)
def test_decimal_commas_without_a_header_are_told_with_their_own_cell(tmp_path, content, place) -> None:
    assert error(table(tmp_path, content)).endswith(
        f"{place}, not a number; write it with a decimal point and no comma"
    )


@pytest.mark.parametrize(
    ("content", "advice"),
    [("t;x;y;n\n1,5;a;2;3\n2,5;b;3;4\n", "out: --columns 3-4"), ("x,y\na,1\n2,b\n", "; correct it")],
)
def test_columns_that_are_advised_hold_numbers_alone(tmp_path, content, advice) -> None:
    name = table(tmp_path, content)
    assert error(name).endswith(advice)
    if "--columns" in advice:
        read_csv(Path(name), (advice.rpartition(" ")[2],), "--input")


def test_a_first_row_of_wrong_cells_is_no_row_of_units(tmp_path: Path) -> None:
    assert "row 1 (line 2), column 'a' is '1_0'" in error(table(tmp_path, "a,b\n1_0,x\n2,3\n4,5\n"))
    assert "row 1 (line 2), column 'a' is 'NA'" in error(table(tmp_path, "a,b\nNA,x\n2,3\n4,5\n"))

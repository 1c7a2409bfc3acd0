from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from gradscope.errors import UsageError
from gradscope.records import RunSpec
from gradscope.sequences.make_batch import make_batch


def error(name: str | Path, **options: object) -> str:
    with pytest.raises(UsageError) as caught:
        make_batch(RunSpec(input=str(name), **options), seed=0)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def npy(folder: Path, values: object) -> str:
    path = folder / "a.npy"
    np.save(path, np.asarray(values))
    return str(path)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2, 3], [[[1], [2], [3]]]),
        ([[1.5, 2], [3, 4]], [[[1.5, 2], [3, 4]]]),
        ([[[1], [2]], [[3], [4]]], [[[1], [2]], [[3], [4]]]),
        ([True, False], [[[1], [0]]]),
    ],
)
def test_shapes_of_npy(tmp_path: Path, values: object, expected: object) -> None:
    batch = make_batch(RunSpec(input=npy(tmp_path, values)), seed=0)
    assert batch.x.tolist() == expected
    assert batch.x.dtype == torch.float64
    assert batch.notes == ()


def test_only_the_first_2000_steps_unless_asked(tmp_path: Path) -> None:
    name = npy(tmp_path, np.arange(2500.0))
    batch = make_batch(RunSpec(input=name), seed=0)
    assert batch.x.shape == (1, 2000, 1)
    assert batch.x[0, -1, 0].item() == 1999
    assert batch.notes == ("first 2,000 of 2,500 steps; --length to change",)
    assert make_batch(RunSpec(input=name, length=2500), seed=0).x.shape == (1, 2500, 1)


def test_batch_cuts_one_sequence_into_stretches(tmp_path: Path) -> None:
    batch = make_batch(RunSpec(input=npy(tmp_path, range(7)), batch=2, length=3), seed=0)
    assert batch.x.flatten(1).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert batch.notes == ("2 consecutive stretches of 3 steps", "first 6 of 7 steps")


def test_batch_and_length_take_the_first_of_a_batch(tmp_path: Path) -> None:
    name = npy(tmp_path, np.arange(12).reshape(3, 4, 1))
    batch = make_batch(RunSpec(input=name, batch=2, length=2), seed=0)
    assert batch.x.flatten(1).tolist() == [[0, 1], [4, 5]]
    assert batch.notes == ("first 2 of 3 sequences", "first 2 of 4 steps")
    assert error(name, batch=4) == f"'{name}' holds 3 sequences, --batch 4 needs more; use --batch 3 or less"


def test_columns_by_number(tmp_path: Path) -> None:
    name = npy(tmp_path, [[1, 2, 3], [4, 5, 6]])
    assert make_batch(RunSpec(input=name, columns=("3", "1")), seed=0).x.tolist() == [[[3, 1], [6, 4]]]
    assert error(name, columns=("4",)) == f"--columns 4 is not in '{name}'; its columns are 1 to 3"


def test_standard_scale_on_request(tmp_path: Path) -> None:
    batch = make_batch(RunSpec(input=npy(tmp_path, [[[1], [3]], [[5], [7]]]), scale="standard"), seed=0)
    # mean 4, variance 5
    assert batch.x.flatten().tolist() == pytest.approx([-3 / 5**0.5, -1 / 5**0.5, 1 / 5**0.5, 3 / 5**0.5])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            np.zeros((2, 2, 2, 2)),
            "has shape (2, 2, 2, 2); (steps,), (steps, features) or (batch, steps, features) is needed",
        ),
        (np.float64(3), "has shape (); (steps,), (steps, features) or (batch, steps, features) is needed"),
        (
            np.zeros(3, dtype=complex),
            "holds complex128, not real numbers; save real and imaginary parts as two features",
        ),
        (np.array(["a", "b"]), "holds <U1, not real numbers; save numbers"),
        (
            [[1.0, 2.0], [3.0, np.nan]],
            "has nan at row 2, column 2; fill or remove it, or choose other --columns or a shorter",
        ),
        (
            np.full((2, 3, 1), np.inf),
            "has inf at row 1, column 1 of sequence 0 (and 5 more NaN or Inf); fill or remove it",
        ),
        ([1.0], "has 1 step; at least 2 per sequence are needed, use a longer source"),
    ],
)
def test_arrays_that_are_no_sequences(tmp_path: Path, values: object, message: str) -> None:
    name = npy(tmp_path, values)
    assert error(name).startswith(f"'{name}' {message}")


def test_length_beyond_the_file(tmp_path: Path) -> None:
    name = npy(tmp_path, range(5))
    assert error(name, length=9) == f"'{name}' has 5 steps, --length 9 needs more; use --length 5 or less"


def test_empty_array(tmp_path: Path) -> None:
    path = tmp_path / "e.npz"
    np.savez(path, x=np.zeros((0, 3)))
    assert error(path) == f"'{path}' holds an empty array of shape (0, 3); name another file"


def test_object_arrays_are_refused(tmp_path: Path) -> None:
    remedy = "which could run code; save numbers: numpy.save(path, x.astype(float))"
    np.save(tmp_path / "o.npy", np.array([1, None]), allow_pickle=True)
    np.savez(tmp_path / "o.npz", x=np.array([1, None]))
    for file in ("o.npy", "o.npz"):
        assert error(tmp_path / file) == f"'{tmp_path / file}' holds Python objects, {remedy}"


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt", ".wav"])
@pytest.mark.parametrize("content", [b"no such format", b"\x93NUMPY\x01\x00", b"PK\x03\x04", b"RIFF", b"\x80\x02"])
def test_damaged_files(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"d{suffix}"
    path.write_bytes(content)
    assert error(path).startswith(f"'{path}' is ")


def test_a_truncated_npy(tmp_path: Path) -> None:
    path = Path(npy(tmp_path, np.zeros(100)))
    path.write_bytes(path.read_bytes()[:-8])
    assert error(path).startswith(f"'{path}' is damaged or not what its name says")


def test_an_npz_with_a_wrong_checksum(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=np.arange(50.0))
    raw = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("x.npy").header_offset
    raw[start + 300] ^= 0xFF
    path.write_bytes(raw)
    assert error(path).startswith(f"'{path}' is damaged (Bad CRC-32")


def test_npz_takes_the_only_array_or_the_named_one(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=[1, 2])
    assert make_batch(RunSpec(input=str(path)), seed=0).notes == ("array x",)
    np.savez(path, x=[1, 2], y=[[3, 4], [5, 6]])
    assert make_batch(RunSpec(input=str(path), columns=("y", "2")), seed=0).x.tolist() == [[[4], [6]]]
    assert error(path) == f"'{path}' holds 2 arrays (x, y); choose one with --columns NAME"
    assert error(path, columns=("z",)) == f"'{path}': unknown array 'z' (one of: x, y)"
    assert error(path, columns=("x", "y")) == f"--columns names 2 arrays of '{path}', one sequence is needed; name one"


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool]
)
def test_pt_of_every_real_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "x.pt"
    torch.save(torch.tensor([[0, 1], [1, 0]], dtype=dtype), path)
    assert make_batch(RunSpec(input=str(path)), seed=0).x.tolist() == [[[0, 1], [1, 0]]]


def test_pt_takes_the_only_tensor_of_a_dict_or_the_named_one(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"x": torch.tensor([1.0, 2.0], requires_grad=True), "epoch": 3}, path)
    batch = make_batch(RunSpec(input=str(path)), seed=0)
    assert batch.x.tolist() == [[[1], [2]]]
    assert batch.notes == ("tensor x",)
    assert not batch.x.requires_grad
    torch.save({"x": torch.ones(2), "y": torch.zeros(2)}, path)
    assert make_batch(RunSpec(input=str(path), columns=("y",)), seed=0).x.tolist() == [[[0], [0]]]
    assert error(path) == f"'{path}' holds 2 arrays (x, y); choose one with --columns NAME"


class Mine:
    pass


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Mine(), "holds Python objects ("),
        ([torch.ones(2)], "holds a list, a tensor is needed; save the tensor alone"),
        ({"a": 1}, "holds no arrays; name another file"),
        (torch.ones(1).expand(10**12), "holds an expanded tensor, larger than what is stored; save x.contiguous()"),
        (torch.eye(3).to_sparse(), "holds a sparse or quantized tensor; save x.to_dense() or x.dequantize()"),
        (
            torch.ones(3, dtype=torch.complex64),
            "holds complex64, not real numbers; save real and imaginary parts as two",
        ),
    ],
)
def test_pt_files_that_hold_no_plain_tensor(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "x.pt"
    torch.save(content, path)
    assert error(path).startswith(f"'{path}' {message}")


def test_what_stands_behind_input_must_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "empty.npy").touch()
    (tmp_path / "data.mat").write_text("x")
    cases = {
        "no.npy": "does not exist; check the path",
        "empty.npy": "is empty (0 bytes); write it again or name another file",
        ".": "is a folder, a file is needed; name one file inside it",
    }
    for name, message in cases.items():
        assert error(tmp_path / name) == f"--input '{tmp_path / name}' {message}"
    types = "unknown file type '.mat' (one of: .csv, .npy, .npz, .pt, .wav, .txt)"
    assert error(tmp_path / "data.mat") == f"--input '{tmp_path / 'data.mat'}': {types}"
    assert "cannot be read" in error("x" * 5000 + ".npy")

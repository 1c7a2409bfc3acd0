"""What an archive says of itself is compared with what it holds, before anything is loaded."""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from gradscope.errors import UsageError
from gradscope.files import zip_check
from gradscope.files.weights_file import read_weights
from gradscope.files.zip_check import check_zip


def refused(path: Path, *, compressed: bool = False) -> str:
    with pytest.raises(UsageError) as caught:
        check_zip(path, compressed=compressed)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def archive(path: Path, *members: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", compression) as file:
        warnings.simplefilter("ignore")
        for name, content in members:
            file.writestr(name, content)
    return path


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.save({"w": torch.arange(100.0)}, tmp_path / "w.pt")
    return tmp_path / "w.pt"


def test_a_whole_archive_passes(weights: Path) -> None:
    check_zip(weights, compressed=False)
    assert read_weights(weights, "model")["w"].sum() == 4950


def test_one_flipped_bit_of_a_weight_is_found_though_torch_loads_it(weights: Path) -> None:
    raw = bytearray(weights.read_bytes())
    raw[raw.index(torch.arange(100.0).numpy().tobytes()) + 40] ^= 1
    weights.write_bytes(raw)
    assert not torch.equal(torch.load(weights, weights_only=True)["w"], torch.arange(100.0))
    assert "Bad CRC-32" in refused(weights)


@pytest.mark.parametrize("name", ["../up", "a/../../up", "/root", "\\share", "a\\..\\..\\up"])
def test_paths_that_leave_the_archive(name: str, tmp_path: Path) -> None:
    assert "which leaves the archive" in refused(archive(tmp_path / "a.pt", (name, b"x")))


def test_two_members_of_one_name(tmp_path: Path) -> None:
    assert "holds 'a/data' twice" in refused(archive(tmp_path / "a.pt", ("a/data", b"x"), ("a/data", b"y")))


def test_weights_are_never_compressed_and_arrays_unfold_to_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = archive(tmp_path / "a.pt", ("a/data", bytes(2**22)), compression=zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 2**13
    assert "torch.save never does" in refused(bomb)
    check_zip(bomb, compressed=True)
    monkeypatch.setattr(zip_check, "LARGEST_INFLATED", 2**21)
    assert "unfolds to" in refused(bomb, compressed=True)


def test_members_that_share_their_bytes(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.pt", ("a", bytes(1000)), ("b", b""))
    raw = bytearray(path.read_bytes())
    second = raw.rindex(b"PK\x01\x02")  # the directory's entry of b, made to point at the bytes of a
    raw[second + 20 : second + 28] = (1000).to_bytes(4, "little") * 2
    raw[second + 42 : second + 46] = (0).to_bytes(4, "little")
    path.write_bytes(raw)
    assert "declares more bytes than it has" in refused(path)


def test_more_members_than_sense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_check, "MOST_ENTRIES", 2)
    assert "has 3 members" in refused(archive(tmp_path / "a.pt", *((str(n), b"") for n in range(3))))


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
def test_a_truncated_archive(keep: float, weights: Path) -> None:
    raw = weights.read_bytes()
    weights.write_bytes(raw[: int(len(raw) * keep)])
    with pytest.raises(UsageError, match="damaged zip archive"):
        read_weights(weights, "model")


def test_a_shape_that_does_not_fit_its_bytes(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((10, 10)))
    larger = buffer.getvalue().replace(b"(10, 10)", b"(10, 99)")
    archive(tmp_path / "a.npz", ("w.npy", larger))
    with pytest.raises(UsageError, match="a shape that does not fit its bytes"):
        read_weights(tmp_path / "a.npz", "model")

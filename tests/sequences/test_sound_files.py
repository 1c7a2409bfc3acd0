from __future__ import annotations

import struct
import wave
from pathlib import Path

import pytest

from gradscope.errors import UsageError
from gradscope.records import RunSpec
from gradscope.sequences.make_batch import make_batch

REMEDY = "convert it: ffmpeg -i in.wav -c:a pcm_s16le out.wav"


def sound(folder: Path, width: int, raw: bytes, channels: int = 1) -> Path:
    path = folder / "s.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, 8000, 0, "NONE", ""))
        file.writeframes(raw)
    return path


def error(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        make_batch(RunSpec(input=str(path)), seed=0)
    return str(caught.value)


def extensible(plain: bytes, kind: int) -> bytes:
    """The same sound as ffmpeg writes 24 bits and many channels: a longer format with the plain one inside."""
    width = plain[34:36]
    guid = struct.pack("<H", kind) + bytes.fromhex("000000001000800000aa00389b71")
    format_ = b"\xfe\xff" + plain[22:36] + struct.pack("<H", 22) + width + struct.pack("<I", 4) + guid
    body = b"WAVEfmt " + struct.pack("<I", len(format_)) + format_ + plain[36:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("width", [2, 3])
def test_the_extensible_format_is_the_plain_one_that_it_names(tmp_path: Path, width: int) -> None:
    path = sound(tmp_path, width, bytes(range(12)) * width, channels=2)
    plain = make_batch(RunSpec(input=str(path)), seed=0)
    path.write_bytes(extensible(path.read_bytes(), 1))
    found = make_batch(RunSpec(input=str(path)), seed=0)
    assert found.x.tolist() == plain.x.tolist()
    assert found.notes == plain.notes
    path.write_bytes(extensible(sound(tmp_path, width, bytes(12)).read_bytes(), 3))
    assert "holds floating-point sound" in error(path)


@pytest.mark.parametrize(
    ("width", "raw"),
    [
        (1, bytes([128, 192, 0])),
        (2, struct.pack("<3h", 0, 2**14, -(2**15))),
        (3, b"\x00\x00\x00\x00\x00\x40\x00\x00\x80"),
        (4, struct.pack("<3i", 0, 2**30, -(2**31))),
    ],
)
def test_every_width_has_full_scale_one(tmp_path: Path, width: int, raw: bytes) -> None:
    batch = make_batch(RunSpec(input=str(sound(tmp_path, width, raw)), scale="none"), seed=0)
    assert batch.x.tolist() == [[[0], [0.5], [-1]]]
    assert batch.notes == ("0.000375 s of sound at 8000 Hz, mono; one step per sample",)


def test_24_bits_to_the_last(tmp_path: Path) -> None:
    path = sound(tmp_path, 3, b"\xff\xff\xff\x01\x00\x00")
    assert make_batch(RunSpec(input=str(path), scale="none"), seed=0).x.flatten().tolist() == [-(2.0**-23), 2.0**-23]


def test_stereo_is_two_features_scaled_by_default(tmp_path: Path) -> None:
    batch = make_batch(RunSpec(input=str(sound(tmp_path, 2, struct.pack("<4h", 1, 10, 3, 50), channels=2))), seed=0)
    assert batch.x.tolist() == [[[-1, -1], [1, 1]]]
    assert batch.notes == (
        "0.00025 s of sound at 8000 Hz, stereo; one step per sample",
        "each column scaled to zero mean and unit variance over the steps used",
    )


def test_a_channel_by_number(tmp_path: Path) -> None:
    path = sound(tmp_path, 1, bytes([128, 192, 128, 0]), channels=2)
    assert make_batch(RunSpec(input=str(path), columns=("2",), scale="none"), seed=0).x.tolist() == [[[0.5], [-1]]]


def test_truncated_sound(tmp_path: Path) -> None:
    path = sound(tmp_path, 2, bytes(20))
    path.write_bytes(path.read_bytes()[:-6])
    assert error(path) == f"'{path}' is cut short: its header says 10 samples, it holds 7; {REMEDY}"
    path.write_bytes(path.read_bytes()[:30])
    assert error(path) == f"'{path}' is damaged or no wav file (it ends too early); {REMEDY}"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (3, "holds floating-point sound, only PCM can be read"),
        (7, "is coded sound (unknown format: 7), only PCM can be read"),
    ],
)
def test_sound_that_is_not_pcm(tmp_path: Path, code: int, message: str) -> None:
    path = sound(tmp_path, 4, bytes(16))
    raw = bytearray(path.read_bytes())
    raw[20:22] = struct.pack("<H", code)
    path.write_bytes(raw)
    assert error(path) == f"'{path}' {message}; {REMEDY}"


def test_sound_without_samples(tmp_path: Path) -> None:
    path = sound(tmp_path, 2, b"")
    assert error(path) == f"'{path}' holds an empty array of shape (0, 1); name another file"

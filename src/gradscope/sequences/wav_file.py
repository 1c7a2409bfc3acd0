"""Sound: .wav, PCM of 8, 16, 24 or 32 bits."""

from __future__ import annotations

import io
import wave
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradscope.errors import UsageError
from gradscope.sequences.file_data import FileData
from gradscope.text import safe_text

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

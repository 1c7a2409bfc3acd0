"""float32 as IEEE 754 has it, whatever the process was told."""

from __future__ import annotations

from typing import Any

import torch

Precision = tuple[tuple[str, ...], tuple[str, bool] | None]
"""How products of float32 are rounded: by torch's newer settings, and by the older ones where they answer."""


def precision() -> Precision:
    """What the process is told."""
    return tuple(part.fp32_precision for part in _parts()), _older()


def set_precision(wanted: Precision) -> None:
    """Tell it what `precision` read before."""
    parts, older = wanted
    if older is not None:
        _set_older(*older)
    for part, was in zip(_parts(), parts, strict=True):
        if part.fp32_precision != was:
            part.fp32_precision = was


def set_full_precision() -> None:
    """No product of float32 numbers is rounded to fewer digits (TF32, bfloat16).

    cuDNN's recurrent kernels do that unless told otherwise, and scripts ask for it; three digits are too few to tell a
    chain from its model. torch has an older and a newer way to set it, and refuses to answer the older one where both
    were used: the older is set where it answers, so that a user's module may ask it, and the newer where that leaves
    anything open.
    """
    older = _older()
    if older is not None:
        _set_older("highest", False)
    for part in _parts():
        if part.fp32_precision not in (("ieee",) if older is None else ("ieee", "none")):
            part.fp32_precision = "ieee"


def _parts() -> tuple[Any, ...]:
    cudnn: Any = torch.backends.cudnn
    mkldnn: Any = torch.backends.mkldnn
    return torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn


def _older() -> tuple[str, bool] | None:
    try:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return None


def _set_older(matmul: str, cudnn: bool) -> None:
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = cudnn

"""Moving a sequence to the dtype and device of the run."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gradscope.errors import UsageError
from gradscope.registry import unknown
from gradscope.text import safe_text

DTYPES: Mapping[str, torch.dtype] = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def place(x: Tensor, dtype: str, device: str) -> Tensor:
    """`x` (finite, float64) in `dtype` on `device`.

    Raises:
        UsageError: unknown dtype, a device that is not there, or a value too large for the dtype.
    """
    if dtype not in DTYPES:
        raise UsageError(unknown("dtype", dtype, DTYPES))
    converted = x.to(DTYPES[dtype])
    if not bool(converted.isfinite().all()):
        largest = x.abs().max().item()
        raise UsageError(
            f"the input reaches {largest:.3g}, too large for {dtype}; use --dtype float64 or --scale standard"
        )
    return to_device(converted, device)


def to_device(x: Tensor, device: str) -> Tensor:
    """`x` on `device`.

    Raises:
        UsageError: the device is unknown, absent, or cannot hold the dtype of `x`.
    """
    try:
        target = torch.device(device)
        moved = x.to(target)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        # torch reports unknown devices, builds without CUDA and missing float64 (mps) by four different types
        reason = safe_text(str(error).partition("\n")[0], 120)
        raise UsageError(f"cannot use device '{safe_text(device)}': {reason}; use --device cpu") from error
    if target.type == "meta":
        raise UsageError("device 'meta' holds no numbers; use --device cpu")
    return moved

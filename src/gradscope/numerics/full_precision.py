"""float32 as IEEE 754 has it, whatever the process was told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """No product of float32 numbers is rounded to fewer digits (TF32, bfloat16) meanwhile.

    cuDNN's recurrent kernels do that unless told otherwise, and scripts ask for it by
    `torch.set_float32_matmul_precision`; three digits are too few to tell a chain from its model.
    """
    cudnn = torch.backends.cudnn
    try:
        before = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    except RuntimeError:
        # torch refuses to answer a process that has used its newer settings too; those are the user's to set.
        yield
        return
    torch.set_float32_matmul_precision("highest")
    cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32 = before[1]

"""Whether one call of a recurrence goes on where the call before it stopped."""

from __future__ import annotations

import torch
from torch import Tensor

from gradscope.models.capture.gradients import gradients
from gradscope.models.capture.reading import Reading


def handed_on(before: Reading, after: Reading) -> bool:
    """Whether `after` was given the very state that `before` returned.

    All of its numbers must be the same, part by part (h, c), and its gradient must come back either whole or not at
    all (a detach): one that is scaled, clipped or stopped in some of the parts is no longer that of the recurrence.
    """
    if before.lengths is not None or after.lengths is not None or len(before.left) != len(after.given):
        return False
    if not all(_equal(a, b) for a, b in zip(before.left, after.given, strict=True)):
        return False
    return after.detached or _whole(before.left, after.given)


def _equal(a: Tensor, b: Tensor) -> bool:
    """NaN equals NaN here: a recurrence that breaks is still one."""
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


def _whole(left: tuple[Tensor, ...], given: tuple[Tensor, ...]) -> bool:
    """Whether d(given)/d(left) is the identity, as far as a gradient of ones can tell."""
    if not all(part.requires_grad for part in given):
        return False
    ones = [torch.ones_like(part) for part in given]
    found = gradients(given, left, ones)
    return all(g is not None and torch.equal(g, one) for g, one in zip(found, ones, strict=True))

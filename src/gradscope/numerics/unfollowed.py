"""Why a recurrence inside a module cannot be followed, or has no joint state: in words for the user."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from gradscope.forward.autograd_graph import Graph
from gradscope.models.fused_recurrence import OpenedPass, Recurrence
from gradscope.models.output_shape import reals
from gradscope.models.user_modules import alike
from gradscope.numerics.trace import Unavailable
from gradscope.text import safe_text


def unfollowed(seen: OpenedPass, name: str) -> str:
    """Why the recurrences cannot be followed; empty where they can."""
    if seen.recurrences and not alike(seen.raw, seen.again, Graph.of(reals(seen.raw)).types):
        return f"{safe_text(name)} returns something else when it is run again, so it cannot be followed"
    walks: dict[nn.Module, list[Recurrence]] = {}
    for one in seen.recurrences:
        walks.setdefault(one.module, []).append(one)
    for groups in walks.values():
        calls = sum(len(one.readings) for one in groups)
        if calls <= 1 or groups[0].output is not None or len(groups) <= calls / 2:
            continue
        if not any(reading.start for one in groups for reading in one.readings):
            return f"{groups[0].name} is called without a state, so every call starts anew and it is no recurrence"
        changed = "the state, or the gradient of the state, is changed between its calls"
        return f"{groups[0].name} cannot be followed as one recurrence: {changed}"
    return ""


def summed_over(read: int, steps: int) -> str:
    """Said where what the module returns is made of the states of many steps, as its own sum or mean of losses is."""
    return (
        f"what the loss reads adds up {read} of {steps} steps inside the module: the influence is that of all these "
        "together, in which a gradient that vanishes may not show; return the output of every step and give the loss "
        "with --loss"
    )


AT_ONCE = (
    ("Cumsum", "a scan"),
    ("Cumprod", "a scan"),
    ("Fft", "Fourier transforms"),
    ("Conv", "a convolution"),
    ("Softmax", "attention"),
    ("ScaledDot", "attention"),
)
"""Beginnings of operations that work on a whole axis, and what they are called."""


def unseen(module: nn.Module, operations: Iterable[str] = ()) -> str:
    """Said where no recurrence was found; with the operations of its pass, also why there are no steps."""
    name = safe_text(getattr(module, "original_name", type(module).__name__))
    if isinstance(module, torch.jit.ScriptModule):
        return f"{name} is a TorchScript program, which cannot be looked into: its gradients by input are measured"
    ran = list(operations)
    found = next((what for begins, what in AT_ONCE if any(one.startswith(begins) for one in ran)), None)
    why = f", which takes all steps at once ({found} over the whole axis)" if found else ""
    return f"no recurrence was seen inside {name}{why}: its gradients by input are what is measured"


def with_joint_state(one: Recurrence, length: int) -> Recurrence:
    """The recurrence, if its state is one that the module as a whole has at every step.

    Raises:
        Unavailable: it is not, with the reason.
    """
    if not one.one_way:
        reason = f"{one.name} is bidirectional: its layers read the future, so no joint state exists"
        raise Unavailable(reason, told=True)
    if one.lengths is not None:
        raise Unavailable("the sequences are packed with different lengths, so there is no common last step")
    if len(one.x) != length:
        raise Unavailable(f"{one.name} walks {len(one.x)} steps of its own where the input has {length}")
    return one

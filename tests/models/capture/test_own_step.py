"""A cell of the user's as a function of rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gradscope.models.capture.own import Suspect, outermost
from gradscope.models.capture.own_step import own_step
from wild import Image, Stacked

SEED = 5


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(SEED + sum(shape)))


@pytest.mark.parametrize("batch", [2, 3])
def test_states_that_have_sequences_on_another_axis(batch: int) -> None:
    cell, x, h = Stacked(), drawn(batch, 3), drawn(2, batch, 4)
    step = own_step(cell, {1: 1}, (x, h), {}, batch)
    assert step is not None
    rows, state = step.flat((x, h), {})
    assert state.shape == (batch, 8)
    assert torch.equal(state[1], h[:, 1].flatten())
    assert torch.allclose(step(rows, state), cell(x, h)[1].movedim(1, 0).flatten(1))
    assert torch.allclose(step(rows[1:2], state[1:2]), step(rows, state)[1:2], atol=1e-6)


def test_states_of_any_shape_by_place_and_by_name() -> None:
    cell, x, h, c = Image(), drawn(3, 3), drawn(3, 2, 3), drawn(3, 2, 3) / 2
    step = own_step(cell, {1: 0, 2: 1}, (x,), {"state": (h, c)}, 3)
    assert step is not None
    rows, state = step.flat((x,), {"state": (h, c)})
    assert (rows.shape, state.shape) == ((3, 3), (3, 12))
    assert torch.allclose(step(rows, state), torch.cat([part.flatten(1) for part in cell(x, (h, c))], -1))


class Mixing(nn.Module):
    """A step in which sequences see each other."""

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(x + h - h.mean(0))


def test_a_step_that_mixes_sequences_is_none() -> None:
    assert own_step(Mixing(), {1: 0}, (drawn(3, 4), drawn(3, 4)), {}, 3) is None


def looped(calls: int, settings: list[int] | None = None, fresh: bool = True) -> Suspect:
    suspect, h = Suspect(), torch.zeros(2, 4)
    same = torch.ones(2, 3)
    for call in range(calls):
        x = torch.full((2, 3), float(call)) if fresh else same
        new = h + 1
        suspect.see((x, h, *([settings[call]] if settings else [])), {}, (new * 2, new))
        h = new
    return suspect


def test_a_cell_hands_its_state_on_once_a_step() -> None:
    suspect = looped(5)
    assert suspect.links == {1: 1}
    assert suspect.is_cell(5)
    assert suspect.is_cell(7)  # a walk of its own, something new at every call
    assert not looped(1).is_cell(1)


def test_a_layer_used_again_and_again_is_no_cell() -> None:
    assert not looped(5, fresh=False).is_cell(7)
    assert not looped(5).is_cell(4)  # its state has as many numbers on an axis as there are steps


def test_settings_that_change_are_noticed() -> None:
    assert looped(3, settings=[7, 7, 7]).steady
    assert not looped(3, settings=[7, 8, 9]).steady


def test_a_state_changed_between_calls_is_not_linked() -> None:
    suspect, h = Suspect(), torch.zeros(2, 4)
    for _ in range(3):
        new = h + 1
        suspect.see((torch.ones(2, 3), h), {}, new)
        h = new * 0.5
    assert not suspect.links


def test_only_the_outermost_count() -> None:
    assert outermost(["cell", "cell.gate", "cells", "b.c", "b.c.d"]) == ["cell", "cells", "b.c"]

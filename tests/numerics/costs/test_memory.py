"""What does not fit is refused before it starts, with all that takes part named."""

from __future__ import annotations

import pytest

import gradscope
from gradscope.errors import UsageError
from gradscope.numerics import costs


def test_seeds_are_part_of_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    # An RNN of 4 units and 2 features keeps 44 numbers a step: 8 * 8 * 20 * 44 bytes a seed, and its weights.
    monkeypatch.setattr(costs, "available_bytes", lambda: 150_000)
    said = r"3 seeds x 8 sequences of 20 steps need .* --length \d+ fits, .* smaller --batch or fewer --seeds$"
    with pytest.raises(UsageError, match=said):
        gradscope.analyze("rnn", length=20, hidden=4, input_size=2, seeds=3)
    assert gradscope.analyze("rnn", length=20, hidden=4, input_size=2).models[0].length == 20

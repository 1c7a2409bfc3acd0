from __future__ import annotations

import pytest

from gradscope.errors import UsageError
from gradscope.renderers.view import View


@pytest.mark.parametrize("steps", ["auto", "all", "3:9", ":9", "3:", ":", "7:7"])
def test_choices_of_steps(steps):
    assert View(steps=steps).steps == steps


@pytest.mark.parametrize("steps", ["", "some", "9:3", "1:2:3", "-1:4", "a:b", "\x1b[2J", "1" * 5000 + ":"])
def test_other_choices_are_refused_in_one_line(steps):
    with pytest.raises(UsageError, match="use auto, all or a:b") as caught:
        View(steps=steps)
    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_range_ends_are_inclusive_and_may_be_open():
    assert View(steps="3:9").step_range() == (3, 9)
    assert View(steps="3:").step_range() == (3, None)
    assert View().step_range() is None


def test_a_screen_needs_some_width():
    with pytest.raises(UsageError, match="--width 19"):
        View(width=19)

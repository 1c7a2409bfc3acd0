"""Attention of as many parameters: every step is read directly."""

from __future__ import annotations

from gradscope.fixes.remedy import Remedy
from gradscope.fixes.swap import swapped

REMEDY = Remedy("attention instead", "every step is read directly", swapped("attention", lambda lag: {}, multiple=4))

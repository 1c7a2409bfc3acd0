"""A GRU of as many parameters, its update gates open for the needed lag."""

from __future__ import annotations

from gradscope.fixes.remedy import Remedy
from gradscope.fixes.swap import held, swapped

REMEDY = Remedy("gru instead", "gates decide what is kept", swapped("gru", held("update_bias")))

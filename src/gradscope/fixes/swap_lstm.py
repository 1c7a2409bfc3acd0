"""An LSTM of as many parameters, its forget gates open for the needed lag."""

from __future__ import annotations

from gradscope.fixes.remedy import Remedy
from gradscope.fixes.swap import held, swapped

REMEDY = Remedy("lstm instead", "gates decide what is kept", swapped("lstm", held("forget_bias")))

"""The table of cases, in the order in which they are shown."""

from __future__ import annotations

from gradscope.selftest import calculus, cells, dynamics, equality, influence, products
from gradscope.selftest.case import Case

CASES: tuple[Case, ...] = (
    *products.CASES,
    *dynamics.CASES,
    *cells.CASES,
    *influence.CASES,
    *equality.CASES,
    *calculus.CASES,
)

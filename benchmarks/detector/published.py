"""Outcomes that others published, scored as they stand.

torchrecurrent (PyPI 0.2.5, MIT; arXiv:2510.21252), `benchmarks/adding_problem/runs/*_T100/*_losses.csv`: adding with
random places, T = 100, hidden 128, two layers, dropout 0.2, Adam 0.001, batches of 128, about 2,000 steps, one seed,
trivial answer 0.167. Learned: best test error under 0.01. The share is log10 of the part of ||dL/dx|| that lies on the
first ten steps, of that package's own initialisation, float64, two seeds, eight sequences.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A cell, its best error and its share at initialisation."""

    cell: str
    error: float
    share: float

    @property
    def learned(self) -> bool:
        """Within about 2,000 steps."""
        return self.error < 0.01


ADDING = tuple(
    Published(*row)
    for row in (
        ("MUT2", 0.00026, -15.2),
        ("MGU", 0.00032, -12.9),
        ("LiGRU", 0.00033, -9.5),
        ("MUT3", 0.00039, -15.2),
        ("GRU", 0.00047, -17.2),
        ("MUT1", 0.00054, -13.8),
        ("MultiplicativeLSTM", 0.00054, -22.5),
        ("NAS", 0.00093, -26.2),
        ("LEM", 0.0012, -4.05),
        ("STAR", 0.0013, -25.0),
        ("UGRNN", 0.0013, -4.63),
        ("ATR", 0.0013, -6.95),
        ("SGRN", 0.0016, -24.2),
        ("RAN", 0.0036, -24.5),
        ("BR", 0.0053, -1.58),
        ("CFN", 0.0064, -25.7),
        ("NBR", 0.0074, -1.23),
        ("LSTM", 0.165, -17.3),
        ("IndRNN", 0.156, -1.53),
        ("JANET", 0.165, -1.82),
        ("OriginalLSTM", 0.165, -1.15),
        ("SCRN", 0.165, -26.4),
        ("PeepholeLSTM", 0.163, -16.5),
        ("WMCLSTM", 0.087, -16.7),
        ("coRNN", 20.5, -1.6),
        ("AntisymmetricRNN", 0.418, -1.0),
        ("GatedAntisymmetric", 1.14, -1.0),
    )
)
SMALL = -6.0
"""Share under which a fixed lag is said not to be learned."""


def small_shares() -> tuple[int, int]:
    """How many of the cells with a share under `SMALL` learned, and how many such cells there are."""
    found = [one.learned for one in ADDING if one.share < SMALL]
    return sum(found), len(found)

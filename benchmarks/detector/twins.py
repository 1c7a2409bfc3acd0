"""Twins: where nothing of a family learned a task at a lag, its initialisation that holds longest is tried as well.

A failure shows something about gradients only where the same family can do better: a combination counts as blocked
when it failed and another initialisation of its family, or this twin, learned; where none did, nothing is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.detector.catalogue import Combination
from benchmarks.detector.statistics import Row, failed, group
from gradscope.fixes.other_models import ring
from gradscope.rules.advice import gate_bias_for_lag

SINGLE = ("attention", "transformer", "coRNN", "AntisymmetricRNN", "IndRNN", "LEM")
"""Families without an initialisation that is known to hold longer."""


def twin(family: str, lag: int) -> str | None:
    """The word of a family's twin at a lag."""
    if family in SINGLE:
        return None
    options = ",".join(f"{key}={value}" for key, value in ring(lag).items())
    known = {
        "rnn": "rnn:init=normal,gain=1.5",
        "irnn": "rnn:nonlinearity=relu,init=identity",
        "lstm": f"lstm:forget_bias={gate_bias_for_lag(lag):g}",
        "gru": f"gru:update_bias={gate_bias_for_lag(lag):g}",
        "lru": f"lru:{options}",
    }
    return known.get(family, f"torchrecurrent:{family},keep={gate_bias_for_lag(lag):g}")


def wanted(rows: Sequence[Row]) -> list[Combination]:
    """Twins of all that failed where nothing of their family learned, the cheapest first."""
    able = {group(row) for row in rows if not failed(row)}
    names = {row["name"] for row in rows}
    found: dict[str, tuple[float, Combination]] = {}
    for row in rows:
        word = twin(row["family"], row["lag"])
        if row["part"] == "control" or not failed(row) or group(row) in able or word is None:
            continue
        one = Combination(row["family"], word, row["task"], row["kind"], row["lag"])
        if one.name not in names:
            found[one.name] = min(
                found.get(one.name, (1e9, one)), (float(row["seconds"]), one), key=lambda pair: pair[0]
            )
    return [one for _, one in sorted(found.values(), key=lambda pair: pair[0])]


def labels(rows: Sequence[Row], twins: Iterable[Row]) -> list[bool | None]:
    """Of every combination: whether it is blocked (True) or learned (False); None where nothing is shown."""
    able = {group(row) for row in (*rows, *twins) if not failed(row)}
    return [(True if group(row) in able else None) if failed(row) else False for row in rows]

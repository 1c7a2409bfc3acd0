"""What is scored: a number for every combination, higher where failing is likelier."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from gradscope.rules.gs1_learning import SHARE_ARRIVES, SHARE_FAILS, Expectation, expectation

Row = dict[str, Any]
Statistic = Callable[[Row], float]


def number(value: Any) -> float:
    """A number of a line of results, which writes infinities by name."""
    return math.nan if value is None else float(value)


def over_seeds(name: str, choose: Callable[..., float] = max) -> Statistic:
    """The largest (or least) over seeds."""
    return lambda row: choose(number(seed[name]) for seed in row["seeds"] if seed.get(name) is not None)


def share(row: Row) -> float:
    """S at initialisation, the largest over seeds."""
    return over_seeds("share")(row)


def share_after(row: Row) -> float:
    """S after 100 steps, or 0 where every seed had learned by then."""
    found = [number(seed["share_after"]) for seed in row["seeds"] if seed["share_after"] is not None]
    done = any(seed["learned_at"] is not None and seed["learned_at"] <= 100 for seed in row["seeds"])
    return 0.0 if done else max(found, default=-math.inf)


def progress_after(row: Row) -> float:
    """Error after 100 steps over that of a blind answer; 0 where it was learned by then."""
    done = any(seed["learned_at"] is not None and seed["learned_at"] <= 100 for seed in row["seeds"])
    found = [number(seed["error_after"]) / seed["chance"] for seed in row["seeds"] if seed["error_after"] is not None]
    return 0.0 if done else min(found, default=math.inf)


def _without_state(value: float) -> float:
    return 0.0 if math.isnan(value) else value


STATISTICS: Mapping[str, Statistic] = {
    "gradient share at initialisation": lambda row: -share(row),
    "gradient share after 100 steps": lambda row: -share_after(row),
    "rate times lag": lambda row: -over_seeds("rate")(row) * row["lag"],
    "reach over lag (today's 1 % rule is reach < lag)": lambda row: -over_seeds("reach")(row) / row["lag"],
    "log10 ||dL/dx_1|| / ||dL/dx_T||": lambda row: -over_seeds("ratio")(row),
    "parameter gradient norm (global)": lambda row: -over_seeds("parameter_norm")(row),
    "first over last layer's norm (AutoTrainer's ratio)": lambda row: -over_seeds("layer_ratio")(row),
    "spectral radius of a Jacobian": lambda row: _without_state(-max(number(s.get("radius")) for s in row["seeds"])),
    "largest norm of one Jacobian": lambda row: _without_state(
        -max(number(s.get("largest_jacobian")) for s in row["seeds"])
    ),
    "initial loss": over_seeds("loss", min),
}
RULES: Mapping[str, Callable[[Row], bool]] = {
    "reach < lag (1 % rule)": lambda row: over_seeds("reach")(row) < row["lag"],
    "global parameter norm < 1e-7": lambda row: over_seeds("parameter_norm")(row) < 1e-7,
    "parameter norm outside 1e-12 .. 1e3": lambda row: not 1e-12 < over_seeds("parameter_norm")(row) < 1e3,
    "parameter norm outside .01 .. 10": lambda row: not 0.01 < over_seeds("parameter_norm")(row) < 10,
    "AutoTrainer: first layer < 1e-4 and ratio < 1e-3": lambda row: (
        over_seeds("layer_ratio")(row) < 1e-3 and over_seeds("parameter_norm")(row) < 1e-4
    ),
    "||dL/dx_1|| : ||dL/dx_T|| < 1e-3": lambda row: over_seeds("ratio")(row) < -3,
    "spectral radius < 1": lambda row: max(number(s.get("radius")) for s in row["seeds"]) < 1,
    "largest norm of one Jacobian < 1": lambda row: max(number(s.get("largest_jacobian")) for s in row["seeds"]) < 1,
}
"""What says `fail` without a doubt, by other people's constants."""


def failed(row: Row) -> bool:
    """No setting of any seed learned."""
    return all(seed["learned_at"] is None for seed in row["seeds"])


def word(row: Row) -> Expectation:
    """What gradscope says of a fixed lag; its growth is the slope between the first and the needed lag here."""
    lag, reach = row["lag"], int(over_seeds("reach")(row))
    return expectation(share(row), lag, over_seeds("rate")(row) * lag, reach, SHARE_FAILS, SHARE_ARRIVES)


def group(row: Row) -> tuple[str, str, str, int]:
    """What a combination shares with other initialisations of its family."""
    return row["family"], row["task"], row["kind"], row["lag"]

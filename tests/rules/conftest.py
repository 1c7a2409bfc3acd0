from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gradscope.records import BUILT, Loaded, ModelResult, Series, Summary
from gradscope.registry import FAMILIES
from gradscope.trained import Probe, Training, Twin

HEALTHY: dict[str, Any] = {
    "rate": -0.001,
    "rate_ci": (-0.002, 0.0),
    "reach": 199,
    "needed_lag": 199,
    "zero_lags": (),
    "directions": 20,
    "lyapunov": (-0.01, -0.2),
    "lyapunov_ci": (-0.02, 0.0),
    "precision_horizon": {"float32": {"lag": None}},
    "saturation": {"activation": 0.02},
    "silent": (),
    "unheard": (),
    "output_scale": 0.3,
    "parameter_sensitivity": 1.0,
    "gate_bias": (0.1, 0.1),
}


def probed(*learned_at: int | None, twin: int | None = None, complete: bool = True) -> Probe:
    """A probe whose runs learned at these steps; `twin`: how many of its six did, None for none."""
    runs = tuple(
        Training(0.01, seed, 1.0, at, at or 800, None, 0, (0,), (0.7,), (1.0,)) for seed, at in enumerate(learned_at)
    )
    beside = None if twin is None else Twin("lstm", twin, 6, 100 if twin else None)
    return Probe("recall", "name it", 50, "fixed", 800, 0.1, 0.75, "wrong", runs, beside, (), complete)


@pytest.fixture
def made() -> Callable[..., ModelResult]:
    """Make a healthy result of 200 steps whose named summary values differ; `name`, `size`, ... go to the result."""

    def make(
        name: str = "rnn", *, skipped: dict[str, str] | None = None, size: int = 64, **changed: Any
    ) -> ModelResult:
        probe = changed.pop("probe", probed(100, 200))
        kind, length, loaded = changed.pop("kind", "recurrent"), changed.pop("length", 200), changed.pop("loaded", None)
        return ModelResult(
            name=name,
            kind=kind,
            status="healthy",
            size=size,
            length=length,
            loaded=loaded or Loaded(BUILT if name.partition(":")[0] in FAMILIES else name),
            summary=Summary(**(HEALTHY | changed)),
            series=Series(),
            probe=probe,
            skipped=skipped or {},
        )

    return make

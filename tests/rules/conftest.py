from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gradscope.records import Loaded, ModelResult, Series, Summary

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
}


@pytest.fixture
def made() -> Callable[..., ModelResult]:
    """Make a healthy result of 200 steps whose named summary values differ; `name`, `size`, ... go to the result."""

    def make(
        name: str = "rnn", *, skipped: dict[str, str] | None = None, size: int = 64, **changed: Any
    ) -> ModelResult:
        kind, length, loaded = changed.pop("kind", "recurrent"), changed.pop("length", 200), changed.pop("loaded", None)
        return ModelResult(
            name=name,
            kind=kind,
            status="healthy",
            size=size,
            length=length,
            loaded=loaded or Loaded(source=name),
            summary=Summary(**(HEALTHY | changed)),
            series=Series(),
            skipped=skipped or {},
        )

    return make

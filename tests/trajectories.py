"""Trajectories made by hand, for rules and renderers."""

from __future__ import annotations

from gradscope.records import NonFinite
from gradscope.trajectory import Change, Head, Norms, Point, Trajectory


def point(step: int, reach: int | None = 99, share: float | None = -1.0, **more: object) -> Point:
    """A signal of one layer over 100 steps, of which lag 50 is needed."""
    healthy = reach is not None and reach >= 50
    known = {"status": "healthy" if healthy else "vanishing", "rate": -0.01 if healthy else -0.4}
    fields = {"kind": "signal", "layer": "rnn", "length": 100, "needed_lag": 50, **known, **more}
    return Point(step=step, reach=reach, gradient_share=share, **fields)


def run(*points: Point, needed: int | None = 50, **more: object) -> Trajectory:
    """A training run of these points."""
    return Trajectory(Head("training", "net", needed, every=10, layers=("rnn",)), points, **more)


def eventful() -> Trajectory:
    """A run with everything in it: a loss of reach, a change of weights, clipping, NaN, skipped files and notes."""
    moved = (Change("weight_hh_l0", "norm", 8.0, 12.0, 0.6), Change("forget bias of l0", "mean", 1.0, -0.5))
    norms = Norms(1.5, 0.0, 0.3, 2, 1024.0)
    return run(
        point(0, 99, -1.0, loss=2.0, norms=norms, lags=(0, 1, 10, 99), log10_influence=(0.0, 0.0, -0.5, -1.9)),
        point(10, 60, -2.0, loss=1.0, norms=norms, gates={"forget": 0.9}),
        point(20, 12, -30.0, loss=0.5, changes=moved, norms=norms, below_float32=70, findings=("GS101",)),
        Point(20, "analysis", "rnn", lyapunov=-0.6, gates={"forget": 0.2}, status="vanishing", seconds=0.5),
        point(30, None, None, status="non-finite", loss=float("nan"), non_finite=NonFinite(7, "l0", "state", "nan")),
        notes=("the run was taken up again 1 x",),
        overhead=0.031,
    )

"""Where NaN or Inf is born in a forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from gradscope.models.cell import Layer
from gradscope.models.recurrent import Trajectory
from gradscope.records import NonFinite


def in_weights(weights: Mapping[str, Tensor]) -> NonFinite | None:
    """The first parameter that is not finite; step 0, before anything ran."""
    for name, value in weights.items():
        if not bool(value.isfinite().all()):
            return NonFinite(0, name, "weights", _kind(value))
    return None


def in_trajectories(trajectories: Sequence[Trajectory]) -> NonFinite | None:
    """The first step, layer and gate over several forward passes."""
    return earliest(
        in_layer(layer, name)
        for trajectory in trajectories
        for name, layer in zip(trajectory.names, trajectory.layers, strict=True)
    )


def in_layer(layer: Layer, name: str) -> NonFinite | None:
    """The first step and gate of one layer."""
    return first_bad({**layer.values, "state": layer.states[1:]}, name)


def earliest(found: Iterable[NonFinite | None]) -> NonFinite | None:
    """The one with the smallest step; the first of equals."""
    return min((bad for bad in found if bad is not None), key=lambda bad: bad.step, default=None)


def first_bad(values: Mapping[str, Tensor], layer: str) -> NonFinite | None:
    """The first step at which one of the values (T, batch, ...) is not finite; earlier names win within a step."""
    first: NonFinite | None = None
    for name, value in values.items():
        bad = (~value.isfinite()).flatten(1).any(1).nonzero()
        if len(bad) and (first is None or int(bad[0]) + 1 < first.step):
            first = NonFinite(int(bad[0]) + 1, layer, name, _kind(value[int(bad[0])]))
    return first


def _kind(value: Tensor) -> str:
    if bool(value.isnan().any()):
        return "nan"
    return "inf" if bool((value == float("inf")).any()) else "-inf"

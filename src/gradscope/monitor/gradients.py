"""The gradient of an update before and after clipping: norms, the angle between them, and what was accumulated."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradscope.trajectory import Norms


class Gradients:
    """Hooks on parameters that read the raw gradient as soon as a backward pass has accumulated it."""

    def __init__(self, parameters: Iterable[nn.Parameter], watched: Iterable[nn.Parameter], wanted: Callable[[], bool]):
        """Watch parameters.

        Args:
            parameters: all of the model's; norms are over them.
            watched: those of the watched layers; the angle is over them.
            wanted: whether this update is measured.
        """
        self.parameters = [p for p in parameters if p.requires_grad]
        self.backwards = 0
        """Backward passes since the last update."""
        self.began: Callable[[], None] = lambda: None
        """Called when a backward pass reaches the first parameter."""
        self._watched = {id(p) for p in watched}
        self._raw: dict[int, Tensor] = {}
        self._copies: dict[int, Tensor] = {}
        self._seen: set[int] = set()
        self._handles = [self._hook(p, wanted) for p in self.parameters]

    def _hook(self, parameter: nn.Parameter, wanted: Callable[[], bool]) -> RemovableHandle:
        key, keep = id(parameter), id(parameter) in self._watched

        def accumulated(p: Tensor) -> None:
            # A parameter that comes again belongs to another backward pass; its first one opens it.
            if not self._seen or key in self._seen:
                self._seen.clear()
                self.backwards += 1
                self.began()
            self._seen.add(key)
            if wanted() and p.grad is not None:
                self._raw[key] = _norm(p.grad)
                if keep:
                    self._copies[key] = p.grad.detach().clone()

        handle: RemovableHandle = parameter.register_post_accumulate_grad_hook(accumulated)
        return handle

    def owns(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether an optimizer updates any of the parameters."""
        known = {id(p) for p in self.parameters}
        return any(id(p) in known for group in optimizer.param_groups for p in group["params"])

    def raw(self, scale: float) -> Norms | None:
        """The norm before clipping; None where no backward pass was seen."""
        if not self._raw:
            return None
        return Norms(
            log10_raw=_log10(self._raw.values()) - math.log10(scale),
            backwards=max(self.backwards, 1),
            loss_scale=scale if scale != 1.0 else None,
        )

    def clipped(self) -> tuple[float, float | None] | None:
        """log10 of the norm that the update used, and the cosine of its angle to the raw gradient."""
        known = [p for p in self.parameters if p.grad is not None]
        if not known or not self._raw:
            return None
        return _log10(_norm(p.grad) for p in known if p.grad is not None), self._cosine()

    def forget(self) -> None:
        """An update is done: what was kept of it goes."""
        self._raw, self._copies, self._seen, self.backwards = {}, {}, set(), 0

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()

    def _cosine(self) -> float | None:
        dot = raw = clipped = 0.0
        for p in self.parameters:
            if (before := self._copies.get(id(p))) is None or p.grad is None:
                continue
            old, new = before.double().flatten(), p.grad.detach().double().flatten()
            # The scale of either is no matter for an angle; it keeps squares in range.
            dot, raw, clipped = dot + float(old @ new), raw + float(old @ old), clipped + float(new @ new)
        if raw <= 0 or clipped <= 0 or not math.isfinite(raw * clipped):
            return None
        return max(-1.0, min(1.0, dot / math.sqrt(raw) / math.sqrt(clipped)))


def _norm(gradient: Tensor) -> Tensor:
    """Its Euclidean norm in float64: float32 squares underflow."""
    dense = gradient.detach()
    dense = dense.coalesce().values() if dense.is_sparse else dense
    norm: Tensor = torch.linalg.vector_norm(dense, dtype=torch.float64)
    return norm


def _log10(norms: Iterable[Tensor]) -> float:
    values = [float(norm) for norm in norms]
    total = math.sqrt(math.fsum(value * value for value in values)) if all(map(math.isfinite, values)) else sum(values)
    if total == 0 and any(values):
        total = max(values)
    return math.log10(total) if total > 0 else total if math.isnan(total) else -math.inf

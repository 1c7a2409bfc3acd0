"""Models without a recurrent state: attention, transformers, and any causal module of a user."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from gradscope.errors import UsageError
from gradscope.text import safe_text


class Direct:
    """A map from a whole sequence to a whole sequence; only its gradients with respect to the input exist."""

    def __init__(
        self,
        name: str,
        module: nn.Module,
        input_size: int,
        *,
        kind: Literal["attention", "module"] = "attention",
        weights: Callable[[Tensor], list[Tensor]] | None = None,
        trained: bool = False,
    ) -> None:
        """Wrap `module`: (batch, T, input_size) -> (batch, T, features).

        Args:
            name: what the user called it.
            module: the map.
            input_size: features per step it takes.
            kind: `attention` when its weights can be read.
            weights: x (batch, T, input_size) -> attention weights per layer, each (batch, heads, T, T).
            trained: whether the weights were learned.
        """
        self.name, self.module, self.weights, self.trained = name, module, weights, trained
        self.kind: Literal["attention", "module"] = kind
        self.input_size = input_size

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs of x, differentiable.

        Raises:
            UsageError: the module fails; the message is its own.
        """
        try:
            found: Tensor = self.module(x)
        except UsageError:
            raise
        except Exception as error:
            what = f"{type(error).__name__}: {safe_text(error)}"
            raise UsageError(f"{safe_text(self.name)} fails on x {tuple(x.shape)}: {what}") from error
        return found

    def parameters(self) -> dict[str, Tensor]:
        """All weights by name."""
        return dict(self.module.named_parameters())

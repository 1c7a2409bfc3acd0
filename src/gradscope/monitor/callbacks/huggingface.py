"""Hugging Face: `Trainer(..., callbacks=[GradientFlow(needs_lag=50)])`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers import TrainerCallback

from gradscope.monitor.layer_recorder import Hook
from gradscope.monitor.monitor import Monitor


class GradientFlow(TrainerCallback):  # type: ignore[misc]
    """A Monitor from the beginning of `train` to its end; on the first process of several.

    Norms are raw as they are before `max_grad_norm`, and clipped as the optimizer used them. The loss is that of the
    update: what the model returns as its loss, over all batches that were accumulated. A model without a layer of
    torch.nn to watch, such as GPT-2, is analysed whole on the ids of the newest batch.
    """

    def __init__(self, **settings: Any) -> None:
        """Take the settings of `gradscope.Monitor` but its model: `needs_lag=50, every=100, log="flow.jsonl"`."""
        self.settings = settings
        self.flow: Monitor | None = None
        """The Monitor while, and after, it runs."""
        self._x: Tensor | None = None
        self._losses: list[Tensor] = []
        self._logged: float | None = None
        self._hooks: list[Any] = []

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **kwargs: Any
    ) -> None:
        """Attach; a run that is taken up again goes on in its log."""
        # A training that an error ended is not told to callbacks.
        self.on_train_end(args, state, control)
        if state.is_world_process_zero and model is not None:
            resume, scaler = state.global_step or None, getattr(optimizer, "scaler", None)
            self.flow = Monitor(model, **{"resume": resume, "scaler": scaler, **self.settings})
            self._hooks = [
                model.register_forward_pre_hook(Hook(self._takes, self.flow.fail), with_kwargs=True),
                model.register_forward_hook(Hook(self._returns, self.flow.fail)),
            ]

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The batches of another update follow."""
        self._losses = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        """The gradient is whole: this update's loss and batch."""
        if self.flow is None:
            return
        loss: Any = self._logged
        if self._losses:
            scaler = getattr(optimizer, "scaler", None)
            loss = sum(self._losses) / (scaler.get_scale() if scaler is not None else 1.0)
        self._logged = None
        self.flow.step(loss, self._x)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """The mean since the last log, for a model that does not return its loss."""
        if self.flow is not None and logs and "loss" in logs and not self._losses:
            self._logged = float(logs["loss"])
            self.flow.note_loss(self._logged)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let go."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._losses, self._x = [], [], None
        if self.flow is not None:
            self.flow.close()

    def _takes(self, module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Keep what the model reads: its ids, or the first tensor."""
        if module.training:
            self._x = next(
                (one for one in (named.get("input_ids"), *given, *named.values()) if isinstance(one, Tensor)), None
            )

    def _returns(self, module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        """Keep the loss as the trainer weighs it: what flows back into it is its part of the update's loss."""
        loss = output.get("loss") if isinstance(output, Mapping) else output[0] if isinstance(output, tuple) else None
        if isinstance(loss, Tensor) and loss.requires_grad and loss.numel() == 1:
            value = loss.detach().reshape(())
            loss.register_hook(lambda weight: self._losses.append(value * weight.detach().reshape(())))

"""Hugging Face: `Trainer(..., callbacks=[GradientFlow(needs_lag=50)])`."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from gradscope.monitor.monitor import Monitor


class GradientFlow(TrainerCallback):  # type: ignore[misc]
    """A Monitor from the beginning of `train` to its end; on the first process of several.

    Norms are raw as they are before `max_grad_norm`, and clipped as the optimizer used them.
    """

    def __init__(self, **settings: Any) -> None:
        """Take the settings of `gradscope.Monitor` but its model: `needs_lag=50, every=100, log="flow.jsonl"`."""
        self.settings = settings
        self.flow: Monitor | None = None
        """The Monitor while, and after, it runs."""

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Attach; a run that is taken up again goes on in its log."""
        if state.is_world_process_zero and model is not None:
            resume = state.global_step or None
            self.flow = Monitor(model, **{"resume": resume, **self.settings})

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """The loss, a mean since the last log."""
        if self.flow is not None and logs and "loss" in logs:
            self.flow.note_loss(float(logs["loss"]))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let go."""
        if self.flow is not None:
            self.flow.close()

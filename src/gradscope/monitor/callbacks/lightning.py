"""Lightning: `Trainer(callbacks=[GradientFlow(needs_lag=50)])`."""

from __future__ import annotations

from typing import Any

import torch

from gradscope.errors import UsageError
from gradscope.monitor.monitor import Monitor

try:
    from lightning.pytorch import Callback
except ImportError:
    try:
        from pytorch_lightning import Callback
    except ImportError as missing:
        raise UsageError("GradientFlow of Lightning needs lightning or pytorch-lightning: install one") from missing


class GradientFlow(Callback):  # type: ignore[misc]
    """A Monitor from the first batch of `fit` to its last; on the first process of several.

    Norms are raw as they are before `gradient_clip_val`, and clipped as the optimizer used them.
    """

    def __init__(self, **settings: Any) -> None:
        """Take the settings of `gradscope.Monitor` but its model: `needs_lag=50, every=100, log="flow.jsonl"`."""
        super().__init__()
        self.settings, self.flow = settings, None
        """`flow` is the Monitor while, and after, it runs."""

    flow: Monitor | None

    def on_train_start(self, trainer: Any, pl_module: torch.nn.Module) -> None:
        """Attach, when what a checkpoint holds has been restored; a run that is taken up again goes on in its log."""
        if trainer.is_global_zero:
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            resume = trainer.global_step or None
            self.flow = Monitor(pl_module, **{"scaler": scaler, "resume": resume, **self.settings})

    def on_before_optimizer_step(self, trainer: Any, pl_module: torch.nn.Module, optimizer: Any) -> None:
        """The gradient is whole and not yet clipped."""
        if self.flow is not None:
            self.flow.step()

    def on_train_batch_end(
        self, trainer: Any, pl_module: torch.nn.Module, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The loss as training_step returned it; automatic optimization divides it by the batches it accumulates."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if self.flow is not None and isinstance(loss, torch.Tensor):
            automatic = getattr(pl_module, "automatic_optimization", True)
            self.flow.note_loss(loss.detach() * (trainer.accumulate_grad_batches if automatic else 1))

    def on_fit_end(self, trainer: Any, pl_module: torch.nn.Module) -> None:
        """Let go."""
        if self.flow is not None:
            self.flow.close()

    def on_exception(self, trainer: Any, pl_module: torch.nn.Module, exception: BaseException) -> None:
        """Let go, and say what ended it."""
        if self.flow is not None:
            self.flow.__exit__(type(exception), exception, exception.__traceback__)

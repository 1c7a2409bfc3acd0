"""Hooks on one fused layer: what it takes in, and what the loss sends back to it, kept for the steps that are measured.

The hooks are plain functions, so that a deep copy of the model does not copy the monitor with them, and only look:
they return nothing and change nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence
from torch.utils.hooks import RemovableHandle

from gradscope.monitor.signal import Heard

SEQUENCES = 8
"""Sequences of a batch that a signal is measured on."""


class Ear:
    """Listens to one layer while `wanted` says so."""

    def __init__(self, name: str, layer: nn.RNNBase, wanted: Callable[[], bool]) -> None:
        self.name, self.layer, self.reason = name, layer, ""
        self.fired = False
        """Whether the layer ran with a graph since the last `forget`."""
        self._input: tuple[Tensor, Any] | None = None
        self._sent: dict[int, Tensor] = {}
        self._outputs = 0
        self._rows: Tensor | None = None

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if torch.is_grad_enabled() and wanted():
                self._listen(args, kwargs, output)

        self._handle: RemovableHandle = layer.register_forward_hook(hook, with_kwargs=True)

    def remove(self) -> None:
        """Take the hook away."""
        self._handle.remove()

    def forget(self) -> None:
        """Let go of what was kept."""
        self._input, self._sent, self.fired = None, {}, False

    def heard(self, scale: float) -> Heard | None:
        """What was kept of the last forward and backward pass; None where they do not give lags (see `reason`)."""
        if self._input is None or not self._sent:
            return None
        x, state = self._input
        last = tuple(self._sent.get(place) for place in range(1, self._outputs))
        return Heard(x, state, self._sent.get(0), last, scale)

    def _listen(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Keep some sequences of the input, and hooks on the outputs for what comes back."""
        # Hooks of an earlier pass keep the dict of theirs: of several passes before one backward the last one counts.
        self.fired, self._sent = True, {}
        given: Any = args[0] if args else kwargs.get("input")
        state = args[1] if len(args) > 1 else kwargs.get("hx")
        self.reason = self._unfit(given)
        if self.reason:
            self._input = None
            return
        packed = isinstance(given, PackedSequence)
        if isinstance(given, PackedSequence):
            given, lengths = pad_packed_sequence(given, batch_first=True)
            # Sequences as long as the longest: for shorter ones the newest step is another.
            self._rows = (lengths == lengths.max()).nonzero().flatten()[:SEQUENCES].to(given.device)
        else:
            given = given if self.layer.batch_first else given.transpose(0, 1)
            self._rows = torch.arange(min(SEQUENCES, given.shape[0]), device=given.device)
        rows = self._rows
        kept = None if state is None else _states(state, rows)
        self._input = given.detach().index_select(0, rows), kept
        first, last = output
        ends = last if isinstance(last, tuple) else (last,)
        self._outputs = 1 + len(ends)
        if packed:
            self._hook_packed(first, rows)
        else:
            self._hook(first, 0, 0 if self.layer.batch_first else 1, rows)
        for place, end in enumerate(ends, 1):
            self._hook(end, place, 1, rows)

    def _unfit(self, given: Any) -> str:
        """Why this layer has no lags to tell of; empty where it has."""
        if self.layer.bidirectional:
            return "it is bidirectional, and so reads the future"
        if isinstance(given, PackedSequence):
            return ""
        if not isinstance(given, Tensor) or given.ndim != 3:
            return "its input is no batch of sequences"
        length = given.shape[1 if self.layer.batch_first else 0]
        return "it is called with one step at a time" if length < 2 else ""

    def _hook(self, tensor: Tensor, place: int, batch: int, rows: Tensor) -> None:
        if tensor.requires_grad:
            sent = self._sent

            def came(gradient: Tensor) -> None:
                kept = gradient.detach().index_select(batch, rows)
                sent[place] = kept.transpose(0, 1) if place == 0 and batch == 1 else kept

            tensor.register_hook(came)

    def _hook_packed(self, packed: PackedSequence, rows: Tensor) -> None:
        if packed.data.requires_grad:
            sent = self._sent

            def came(gradient: Tensor) -> None:
                whole = PackedSequence(gradient, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
                padded, _ = pad_packed_sequence(whole, batch_first=True)
                sent[0] = padded.detach().index_select(0, rows)

            packed.data.register_hook(came)


def _states(state: Any, rows: Tensor) -> Any:
    """The rows of a state, of both of an LSTM's."""
    if isinstance(state, tuple):
        return tuple(part.detach().index_select(1, rows) for part in state)
    return state.detach().index_select(1, rows)

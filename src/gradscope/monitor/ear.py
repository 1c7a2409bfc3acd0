"""Hooks on one fused layer: what it takes in, and what the loss sends back, kept for updates that are measured.

Every hook of the Monitor is a `Hook`: it only looks, lets no error out, and is left behind by what copies or saves the
model.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from gradscope.monitor.signal import KERNELS, Heard, differs

SEQUENCES = 8
"""Sequences of a batch that a signal is measured on."""
MOST_CALLS = 4096
"""Calls of a layer within one update that are kept."""
STEPWISE = "it is called with one step at a time, and no gradient passes from one call to the next"


class Hook:
    """A hook of one Monitor: it returns nothing, and what fails in it is handed to the Monitor instead of raised.

    A copy or a pickle of the model gets a hook that does nothing, readable where gradscope is not installed.
    """

    __torch_unserializable__ = True
    """Says to torch that a tensor is sent to another process without it, on purpose."""

    def __init__(self, look: Callable[..., None], failed: Callable[[Exception], None]) -> None:
        self._look, self._failed = look, failed

    def __call__(self, *given: Any) -> None:
        """Look at what torch hands to such a hook."""
        if torch.compiler.is_compiling():
            return
        try:
            self._look(*given)
        except Exception as error:  # whatever fails here, the training goes on
            with suppress(Exception):
                self._failed(error)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (nullcontext(), "__exit__")

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return nullcontext().__exit__

    def __getattr__(self, name: str) -> Any:
        # torch.jit.script compiles the hooks of a module, by name.
        what = "torch.jit.script cannot compile a layer that a Monitor watches: call its close() first"
        raise AttributeError(what if name == "__name__" else name)


with suppress(AttributeError):
    # Where torch.compile leaves a layer to Python it would compile the frames of its hooks, one by one.
    _dynamo = torch._C._dynamo.eval_frame
    _dynamo.set_code_exec_strategy(
        Hook.__call__.__code__, _dynamo._FrameExecStrategy(_dynamo._FrameAction.SKIP, _dynamo._FrameAction.SKIP)
    )


@dataclass
class Call:
    """One forward pass of a layer over some sequences."""

    x: Tensor
    """(sequences, T, features)."""
    state: tuple[Tensor, ...]
    """The state it was handed, h or (h, c), each (layers, sequences, size); empty for none."""
    carried: bool
    """Whether a gradient passes on through that state."""
    ends: tuple[Tensor, ...]
    """The state it ended with."""
    sent: dict[int, Tensor] = field(default_factory=dict)
    """What came back: dL/dy at 0, dL/dh_T at 1, dL/dc_T at 2."""

    def moves(self) -> bool:
        """Whether anything that came back is not zero."""
        return any(bool((gradient != 0).any()) for gradient in self.sent.values())


class Ear:
    """Listens to one layer while `wanted` says so."""

    def __init__(
        self,
        name: str,
        layer: nn.RNNBase,
        wanted: Callable[[Ear], bool],
        failed: Callable[[Exception], None],
        called: Callable[[Ear], None] = lambda ear: None,
    ) -> None:
        """Hook the layer.

        Args:
            name: its path in the model.
            layer: of torch.nn.
            wanted: whether what it takes in is kept.
            failed: told of what goes wrong in a hook.
            called: told of every forward pass with a graph, before `wanted` is asked.
        """
        self.name, self.layer, self.reason = name, layer, ""
        self.refused = ""
        """Why some call was not kept."""
        self.ran = False
        """Whether the layer ran with a graph since the last `settle`."""
        self.silence = "it never ran with gradients switched on"
        """Why nothing was heard so far."""
        self._wanted, self._failed, self._called = wanted, failed, called
        self._is_strange = type(layer).forward is not getattr(nn, layer.mode.partition("_")[0], nn.RNNBase).forward
        """Whether it has a forward pass of its own, which was not yet held against that of torch.nn."""
        self._calls: list[Call] = []
        self._kept: list[Call] = []
        self._handle = layer.register_forward_hook(Hook(self._look, failed), with_kwargs=True)

    def remove(self) -> None:
        """Take the hook away."""
        self._handle.remove()

    def settle(self) -> None:
        """An update is done: its calls are kept for a look at the end, and those of another begin."""
        chain, _ = self._chain()
        self._kept, self._calls, self.ran = chain or self._kept, [], False

    def heard(self, scale: float, *, before: bool = False) -> Heard | None:
        """What the layer took in and got back in this update; None where that gives no lags (see `reason`).

        Of several calls the last one counts that got a gradient back, joined with those whose state it was handed.

        Args:
            scale: the loss scale that the cotangents still carry.
            before: where this update has nothing, that of the last one that had.
        """
        chain, rows = self._chain()
        if not chain and before and self._kept:
            chain, rows = self._kept, _continued(self._kept)
        if not chain:
            return None
        if sum(call.x.shape[1] for call in chain) < 2:
            self.reason = STEPWISE
            return None
        self.reason = ""
        first, final = chain[0], chain[-1]
        return Heard(
            x=torch.cat([call.x for call in chain], 1)[rows],
            state=_rows(first.state, rows),
            output=_outputs(chain, rows),
            last=tuple(
                None if (sent := final.sent.get(place)) is None else sent[:, rows]
                for place in range(1, len(final.ends) + 1)
            ),
            scale=scale,
            carried=first.carried,
        )

    def _chain(self) -> tuple[list[Call], Tensor]:
        """The last call that got a gradient back behind those that it goes on from, and the sequences that do so.

        A sequence that begins anew on the way, as an episode does, is left out.
        """
        heard = [place for place, call in enumerate(self._calls) if call.sent]
        if not heard:
            return [], torch.zeros(0, dtype=torch.bool)
        # A call whose part of the loss is weighted by zero for now says nothing of the gradient.
        place = next((place for place in reversed(heard) if self._calls[place].moves()), heard[-1])
        chain = [self._calls[place]]
        rows = _continued(chain)
        for call in reversed(self._calls[:place]):
            if not chain[-1].carried:
                break
            if bool((more := rows & _goes_on(call, chain[-1])).any()):
                chain.append(call)
                rows = more
        return chain[::-1], rows

    def _look(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        # A shallow copy and the replicas of data parallelism share the hooks of the layer.
        if module is not self.layer or not torch.is_grad_enabled() or _is_traced():
            return
        self._called(self)
        if self._wanted(self):
            self.ran, self.silence = True, "no gradient came back to what it returned"
            self.reason = self._listen(args, kwargs, output)
            self.refused = self.reason or self.refused

    def _listen(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> str:
        """Keep some sequences of the input, and hooks on the outputs for what comes back; a reason where it cannot."""
        given: Any = args[0] if args else kwargs.get("input")
        state = _parts(args[1] if len(args) > 1 else kwargs.get("hx"))
        returned, ends = (output[0], _parts(output[1])) if _is_pair(output) else (output, ())
        if reason := self._unfit(given, state, returned, ends):
            return reason
        axis = 0 if self.layer.batch_first else 1
        if isinstance(given, PackedSequence):
            x, lengths = pad_packed_sequence(given, batch_first=True)
            # Sequences as long as the longest: for shorter ones the newest step is another.
            rows = (lengths == lengths.max()).nonzero().flatten()[:SEQUENCES].to(x.device)
        else:
            x = given if axis == 0 else given.transpose(0, 1)
            rows = torch.arange(min(SEQUENCES, x.shape[0]), device=x.device)
        with torch.no_grad():
            call = Call(
                x=x.index_select(0, rows),
                state=tuple(part.index_select(1, rows) for part in state),
                carried=any(part.requires_grad for part in state),
                ends=tuple(part.index_select(1, rows) for part in ends),
            )
            if self._is_strange and not isinstance(returned, PackedSequence):
                if reason := differs(
                    self.layer, call.x, _rows(call.state, slice(None)), _batch_first(returned, axis, rows)
                ):
                    return reason
                self._is_strange = False
        self._calls.append(call)
        del self._calls[:-MOST_CALLS]
        if isinstance(returned, PackedSequence):
            self._hear(call, 0, returned.data, lambda gradient: _unpacked(gradient, returned, rows))
        else:
            self._hear(call, 0, returned, lambda gradient: _batch_first(gradient, axis, rows))
        for place, end in enumerate(ends, 1):
            self._hear(call, place, end, lambda gradient: gradient.index_select(1, rows))
        return ""

    def _unfit(self, given: Any, state: tuple[Any, ...], returned: Any, ends: tuple[Any, ...]) -> str:
        """Why this layer has no lags to tell of; empty where it has."""
        if self.layer.bidirectional:
            return "it is bidirectional, and so reads the future; gradscope analyze shows each direction"
        if self.layer.mode not in KERNELS:
            return f"its mode {self.layer.mode} is none of torch.nn"
        if any(p is not None and not isinstance(p, nn.Parameter) for p in self.layer._parameters.values()):
            return "it is called with weights that it has for this call alone (functional_call)"
        packed = isinstance(given, PackedSequence)
        if not packed and not (isinstance(given, Tensor) and given.ndim == 3):
            return "its input is no batch of sequences"
        if packed != isinstance(returned, PackedSequence) or not (packed or isinstance(returned, Tensor)):
            return (
                f"{type(self.layer).__name__} returns something else than nn.{self.layer.mode.partition('_')[0]} does"
            )
        if not packed and returned.shape[:2] != given.shape[:2]:
            return f"{type(self.layer).__name__} returns {tuple(returned.shape)} for an input of {tuple(given.shape)}"
        if not all(isinstance(part, Tensor) and part.ndim == 3 for part in (*state, *ends)):
            return "its state is no tensor of (layers, sequences, features)"
        return ""

    def _hear(self, call: Call, place: int, tensor: Tensor, some: Callable[[Tensor], Tensor]) -> None:
        if not tensor.requires_grad:
            return

        def came(gradient: Tensor) -> None:
            with torch.no_grad():
                kept = some(gradient).detach()
                # A second backward pass over the same outputs adds to the first.
                call.sent[place] = call.sent[place] + kept if place in call.sent else kept

        tensor.register_hook(Hook(came, self._failed))


def _is_traced() -> bool:
    """Whether the layer runs for torch.jit or torch.func, on tensors that are none."""
    if torch._C._get_tracing_state() is not None:
        return True
    peek = getattr(getattr(torch._C, "_functorch", None), "peek_interpreter_stack", None)
    return peek is not None and peek() is not None


def _is_pair(output: Any) -> bool:
    return isinstance(output, tuple) and len(output) == 2 and not isinstance(output, PackedSequence)


def _parts(state: Any) -> tuple[Any, ...]:
    """h, or h and c: torch takes them as a tuple or a list."""
    if state is None:
        return ()
    return tuple(state) if isinstance(state, tuple | list) else (state,)


def _batch_first(tensor: Tensor, axis: int, rows: Tensor) -> Tensor:
    kept = tensor.detach().index_select(axis, rows)
    return kept if axis == 0 else kept.transpose(0, 1)


def _unpacked(gradient: Tensor, packed: PackedSequence, rows: Tensor) -> Tensor:
    whole = PackedSequence(gradient, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
    return pad_packed_sequence(whole, batch_first=True)[0].index_select(0, rows)


def _goes_on(earlier: Call, later: Call) -> Tensor:
    """Which sequences of a call were handed the state that another ended with, (sequences)."""
    pairs = list(zip(earlier.ends, later.state, strict=False))
    if (
        not later.carried
        or not pairs
        or len(earlier.ends) != len(later.state)
        or earlier.x.shape[0] != later.x.shape[0]
    ):
        return torch.zeros(later.x.shape[0], dtype=torch.bool, device=later.x.device)
    # Equal numbers, and not the same tensor: a mask of ones between two calls changes nothing.
    return torch.stack([(end == start).all(2).all(0) for end, start in pairs]).all(0)


def _continued(chain: list[Call]) -> Tensor:
    """The sequences that go on through all of a chain, (sequences)."""
    rows = torch.ones(chain[-1].x.shape[0], dtype=torch.bool, device=chain[-1].x.device)
    for earlier, later in pairwise(chain):
        rows = rows & _goes_on(earlier, later)
    return rows


def _rows(state: tuple[Tensor, ...], rows: Tensor | slice) -> Any:
    """Some sequences of a state, as the layer takes it."""
    if not state:
        return None
    return tuple(part[:, rows] for part in state) if len(state) > 1 else state[0][:, rows]


def _outputs(chain: list[Call], rows: Tensor) -> Tensor | None:
    """dL/dy over a chain, zeros for calls whose outputs the loss did not read."""
    sizes = [call.sent[0] for call in chain if 0 in call.sent]
    if not sizes:
        return None
    parts = [
        call.sent[0] if 0 in call.sent else sizes[0].new_zeros(call.x.shape[0], call.x.shape[1], sizes[0].shape[2])
        for call in chain
    ]
    return torch.cat(parts, 1)[rows]
